"""The JSON form of a validation. Its keys are documented in docs/validation.md; sizes are bytes, times seconds."""

from typing import Any

from memmodel_validate.suite import case_dict
from memmodel_validate.validation import Outcome, Validation, broken_promises
from memmodel_validate.verdict import Verdict

SCHEMA = 1


def document(found: Validation) -> dict[str, Any]:
    """The whole validation, worst cases first."""
    plan, verdicts = found.plan, found.verdicts
    calibration = plan.target.calibration
    return {
        "schema": SCHEMA,
        "device": plan.target.device,
        "environment": dict(plan.source.environment),
        "protocol": dict(plan.source.protocol),
        "ledger": plan.ledger,
        "source": plan.source.name,
        "calibration": None if calibration is None else calibration.name,
        "promises": _promises(verdicts),
        "broken": [{"name": name, "promise": promise} for name, promise in broken_promises(verdicts)],
        "cases": [_case(o, o.verdict) for o in found.outcomes if o.verdict is not None],
        "skipped": [{"name": o.trial.name, "reason": o.skipped} for o in found.outcomes if o.verdict is None],
        "notes": list(found.notes),
    }


def _promises(verdicts: list[Verdict]) -> dict[str, int]:
    """The numbers of cases with promises, of those kept, and of their equal events."""
    promised = [v for v in verdicts if v.trial.promised]
    events = [v.events for v in promised if v.events is not None]
    return {
        "cases": len(promised),
        "kept": sum(v.kept for v in promised),
        "events": sum(max(e.measured, e.predicted) for e in events),
        "events_equal": sum(e.equal for e in events),
    }


def _case(outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    model, fits = verdict.prediction, verdict.prediction.fits
    return {
        "name": verdict.trial.name,
        "implementation": verdict.trial.implementation,
        "case": case_dict(verdict.trial.case),
        "promised": verdict.trial.promised,
        "resumed": outcome.resumed,
        "failed": verdict.failed or None,
        "out_of_memory": {"measured": verdict.run.out_of_memory, "predicted": None if fits is None else not fits},
        "memory": {
            row.quantity: {"measured": row.measured, "predicted": row.predicted, "equal": row.equal}
            for row in verdict.memory
        },
        "events": None if verdict.events is None else verdict.events._asdict(),
        "context": {"measured": verdict.context, "predicted": _listed(model.context)},
        "times": {
            t.quantity: {name: getattr(t, name) for name in ("measured", "spread", "samples", "predicted", "ratio")}
            for t in verdict.times
        },
        "binding": model.binding or None,
        "no_time": model.no_time or None,
        "longest": None
        if verdict.trial.cap is None
        else {
            "capacity": verdict.trial.cap,
            "measured": _listed(verdict.boundary),
            "predicted": _listed(model.boundary),
        },
        "broken": list(verdict.broken),
    }


def _listed(pair: tuple[int, int] | None) -> list[int] | None:
    return None if pair is None else list(pair)

"""Runs of `memmodel validate`, on this machine or another, compared with today's model."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from memmodel.timing import Calibration
from memmodel.timing.known import local, read_calibration
from memmodel_validate.comparison import Accuracy, Comparison
from memmodel_validate.ledger import Ledger, Run, Source, read
from memmodel_validate.predictions import predict_trial, target
from memmodel_validate.suite import TIME_PROGRAMS, Trial, case_of
from memmodel_validate.verdict import Verdict, judge

DATA = Path(__file__).parent / "data"


@cache
def shipped_runs() -> Ledger:
    """Our own runs, which are shipped."""
    return read(*sorted((DATA / "ledger").glob("*.jsonl")))


def is_validation(source: Source) -> bool:
    """Whether a source is a validation of this package."""
    complete = {"gpu_id", "compute_capability", "torch", "cpu"} <= source.environment.keys()
    return source.name.startswith("validate-") and "warm_up" in source.protocol and complete


def calibration_of(source: Source) -> Calibration | None:
    """The calibration that was recorded with the runs, else this machine's of that GPU; None where there is none."""
    shipped = DATA / "calibrations" / f"{source.name}.json"
    return read_calibration(shipped) if shipped.exists() else local(source.gpu_id)


def judge_runs(ledger: Ledger) -> Accuracy:
    """Our own runs of a ledger: bytes, events and longest sequences are equal or not; times have an error."""
    judged: list[Comparison] = []
    left_out: Counter[str] = Counter()
    for source in filter(is_validation, ledger.sources.values()):
        for verdict, roofline in _verdicts(ledger.of(source.name), source):
            judged += [*_memory(verdict, source), *_times(verdict, roofline, source)]
            left_out[f"own runs: {verdict.prediction.no_time}"] += sum(time.predicted is None for time in verdict.times)
    return Accuracy(tuple(judged), +left_out)


def _verdicts(runs: list[Run], source: Source) -> Iterator[tuple[Verdict, Mapping[str, float]]]:
    """The verdict on each run that came to an end, and the seconds of a plain roofline by quantity."""
    calibration = calibration_of(source)
    model, roofline = (target(source.environment, c) for c in (calibration, _peaks(calibration, source)))
    for run in runs:
        if "failed" not in run.detail:
            trial = _trial(run, source)
            yield judge(trial, run, predict_trial(trial, model)), predict_trial(trial, roofline).times or {}


def _peaks(calibration: Calibration | None, source: Source) -> Calibration | None:
    """The rates of a plain roofline: a GPU's datasheet; of a processor its square products and largest transfers."""
    if calibration is None or source.gpu_id != "cpu":
        return None
    # One dot: matmul.fp32, of square matrices, without matmul.fp32.scores and the like.
    constants = {n: c for n, c in calibration.constants.items() if n.startswith("matmul.") and n.count(".") == 1}
    bandwidth, products = calibration.constants.get("bandwidth"), constants.get("matmul.fp32")
    if bandwidth is not None:
        constants["bandwidth"] = bandwidth._replace(value=bandwidth.at(math.inf))
    if products is not None:
        # A roofline knows no kernels: flash attention runs at the rate of products.
        constants |= {"flash.flops": products, "flash_backward.flops": products}
    return calibration._replace(constants=constants)


def _trial(run: Run, source: Source) -> Trial:
    """The trial of a record; a search for the longest sequence has a capacity in the place of a sequence."""
    cap = run.case.get("capacity")
    # A search has no length of its own: any serves.
    sizes = {"seq": 64, "kv_seq": 64, **run.case}
    case = case_of(sizes, TIME_PROGRAMS.get(run.implementation, "naive"), source.environment["torch"])
    return Trial(str(run.detail.get("name", run.implementation)), run.implementation, case, cap)


def _judged(source: Source, quantity: str, what: str, measured: float, predicted: float, unit: str) -> Comparison:
    machine = source.environment["cpu"] if source.gpu_id == "cpu" else source.gpu
    subject = f"own runs, torch {source.environment['torch']}"
    exact = None if unit == "s" else measured == predicted
    return Comparison(machine, quantity, subject, what, measured, predicted, unit, exact)


def _memory(verdict: Verdict, source: Source) -> Iterator[Comparison]:
    found = [(row.quantity, row.measured, row.predicted, "B") for row in verdict.memory]
    if verdict.boundary and verdict.prediction.boundary:
        ends = zip(("longest", "first that fails"), verdict.boundary, verdict.prediction.boundary, strict=True)
        found += [(*end, "") for end in ends]
    if verdict.events is not None:
        # Those that are equal stand for the prediction: all of them, or the row is not exact.
        found.append(("events", verdict.events.measured, verdict.events.equal, ""))
    for quantity, measured, predicted, unit in found:
        if measured is not None and predicted is not None:
            what = f"{verdict.trial.name}, {quantity}: measured {measured}, predicted {predicted}"
            yield _judged(source, "memory", what, measured, predicted, unit)


def _times(verdict: Verdict, roofline: Mapping[str, float], source: Source) -> Iterator[Comparison]:
    flash = "flash" in verdict.trial.implementation
    for timing in verdict.times:
        on_gpu = f"flash {timing.quantity.replace('_', ' ')}" if flash else "naive time"
        quantity = "CPU time" if source.gpu_id == "cpu" else on_gpu
        if timing.predicted is not None:
            seconds = f"measured {timing.measured * 1e3:.4g} ms, predicted {timing.predicted * 1e3:.4g} ms"
            what = f"{verdict.trial.name}, {timing.quantity}: {seconds}"
            found = _judged(source, quantity, what, timing.measured, timing.predicted, "s")
            seconds_of_roofline = roofline.get(timing.quantity)
            error = None if seconds_of_roofline is None else abs(seconds_of_roofline / timing.measured - 1)
            yield replace(found, roofline=error)

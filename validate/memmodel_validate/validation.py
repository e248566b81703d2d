"""Run a suite: one process per trial, whose record is appended at once, so that a run can be resumed."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike, fspath
from os.path import exists
from typing import Any, NamedTuple, Protocol

from memmodel.base.units import bytes_text
from memmodel.thresholds import resized
from memmodel.timing.calibration import Calibration, mismatches
from memmodel.timing.known import community, local
from memmodel_validate import ledger
from memmodel_validate.cpu import available_bytes, busy
from memmodel_validate.environment import (
    CPU_PROTOCOL,
    CUDA_PROTOCOL,
    check_torch,
    default_device,
    environment,
    probed,
    source,
    today,
)
from memmodel_validate.ledger import Measurement, Run, Source
from memmodel_validate.predictions import Target, TrialPrediction, needed_bytes, predict_trial, target
from memmodel_validate.processes import ask
from memmodel_validate.suite import GRID, Trial, case_dict, trials
from memmodel_validate.verdict import Verdict, judge

TIMEOUT_SECONDS = 300.0  # for one trial, most of which take a few seconds
_PROCESS_BYTES = 512 << 20  # of torch itself
_BUSY = 0.25  # share of the cores used by others above which a note says so


class Watcher(Protocol):
    """Shows the progress of a run."""

    def begins(self, trial: Trial, number: int, of: int) -> None:
        """A trial begins."""

    def ends(self, trial: Trial, how: str) -> None:
        """A trial ended: measured, on record, skipped, failed ..."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A validation to run: its trials, the device that they are predicted for, and the ledger of its records.

    Attributes:
        trials: in order. target: what predictions are made for. source: of the records. ledger: the file.
        timeout: seconds for one trial. free: bytes that a trial may take on the device; None where not known.
        total: bytes of the device, where the model's own answer of what does not fit is to be tried.
        again: whether what is on record is run again.
    """

    trials: tuple[Trial, ...]
    target: Target
    source: Source
    ledger: str
    timeout: float = TIMEOUT_SECONDS
    free: int | None = None
    total: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trial's verdict, or the reason that it was skipped. `resumed`: it was on record already."""

    trial: Trial
    verdict: Verdict | None = None
    skipped: str = ""
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Validation:
    """A finished run: the outcomes, worst first, and notes on them."""

    plan: Plan
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on the trials that were not left out, worst first."""
        return [outcome.verdict for outcome in self.outcomes if outcome.verdict is not None]

    @property
    def kept(self) -> bool:
        """Whether every trial with a promise was measured and keeps it."""
        return all(verdict.kept for verdict in self.verdicts if verdict.trial.promised)


def plan(
    device: str | None,
    suite: str,
    names: Iterable[str],
    path: str | PathLike[str],
    calibration: Calibration | None = None,
    timeout: float = TIMEOUT_SECONDS,
    again: bool = False,
    threads: int | None = None,
) -> Plan:
    """A checked plan. Raises UsageError for unknown names, a missing torch or GPU, a ledger that cannot be used."""
    names = list(names)
    trials(device or "cpu", suite, names if device else ())  # names first: they cost nothing to check
    check_torch()
    _check_ledger(path)
    chosen = device or default_device()
    found = probed() if chosen == "cuda" else None
    rates = calibration or (local("cpu") if chosen == "cpu" else None)
    here = environment(chosen, threads or _threads(chosen, rates), found)
    protocol = CPU_PROTOCOL if chosen == "cpu" else CUDA_PROTOCOL
    rates = rates or _known_calibration(here["gpu_id"])
    free = available_bytes() if found is None else int(found["free"])
    total = None if found is None else int(found["total"])
    of = target(here, rates, total)
    selected = tuple(trials(chosen, suite, names))
    return Plan(selected, of, source(here, protocol), fspath(path), timeout, free, total, again)


def _check_ledger(path: str | PathLike[str]) -> None:
    """Raise UsageError for a ledger that cannot be read (with its damaged line) or written."""
    if exists(path):
        ledger.read(path)
    ledger.append(path, [])


def _threads(device: str, calibration: Calibration | None) -> int:
    """Threads: on a CPU those of the calibration, whose rates hold for them, or 1, which scatters least; else all."""
    if device != "cpu":
        return len(os.sched_getaffinity(0))
    made_with = "" if calibration is None else calibration.machine.get("threads", "")
    return int(made_with) if made_with.isdecimal() and int(made_with) else 1


def _doubts(plan: Plan) -> Iterator[str]:
    """Reasons to doubt the times: other processes, or a calibration of another machine."""
    others = busy()
    if others > _BUSY:
        yield f"others keep {100 * others:.0f} % of the cores busy: times scatter"
    here, rates = plan.source.environment, plan.target.calibration
    if rates is None:
        return
    yield from mismatches(rates, here["gpu_id"], here["torch"] if rates.basis == "local" else None)
    threads = rates.machine.get("threads", here["threads"])
    if here["gpu_id"] == "cpu" and threads != here["threads"]:
        yield f"the calibration was made with --threads {threads}, these runs with --threads {here['threads']}"


def _known_calibration(gpu_id: str) -> Calibration | None:
    """The machine's own, else one fitted to other people's runs of the GPU; None where there is neither."""
    return (local(gpu_id) or community(gpu_id)) if gpu_id else None


def execute(plan: Plan, watcher: Watcher) -> Validation:
    """Run the trials that are not on record yet, and judge all of them.

    An interrupt (KeyboardInterrupt) ends the trial in progress and leaves the ledger whole.
    """
    notes = tuple(_doubts(plan))
    known = ledger.read(*[plan.ledger] if exists(plan.ledger) else [])
    if plan.source.name not in known.sources:
        ledger.append(plan.ledger, [plan.source])
    done = {} if plan.again else {_key(run): run for run in known.of(plan.source.name) if _is_done(plan, run)}
    outcomes = []
    for number, trial in enumerate(plan.trials, start=1):
        watcher.begins(trial, number, len(plan.trials))
        outcome = _outcome(plan, trial, done.get((trial.implementation, _text(_ledger_case(trial)))))
        outcomes.append(outcome)
        watcher.ends(trial, _how(outcome))
    outcomes.sort(key=lambda o: (0, False, 0.0) if o.verdict is None else o.verdict.badness, reverse=True)
    return Validation(plan, tuple(outcomes), notes)


def _outcome(plan: Plan, trial: Trial, on_record: Run | None) -> Outcome:
    model = predict_trial(trial, plan.target)
    if on_record is not None:
        return Outcome(trial, judge(trial, on_record, model), resumed=True)
    why = _too_large(plan, trial)
    if why:
        return Outcome(trial, skipped=why)
    run = _searched(plan, trial, model) if trial.cap is not None else _measured(plan, trial)
    ledger.append(plan.ledger, [run])
    return Outcome(trial, judge(trial, run, model))


def _too_large(plan: Plan, trial: Trial) -> str:
    """Why a trial is left out: more memory than is free now. One too large for an empty GPU is run, to see it fail."""
    if plan.free is None:
        return ""
    # On a CPU, torch itself takes of the same memory.
    needed = trial.cap or needed_bytes(trial, plan.target) + (_PROCESS_BYTES if plan.total is None else 0)
    fills_an_empty_gpu = plan.total is not None and needed > plan.total and trial.cap is None
    if needed <= plan.free or fills_an_empty_gpu:
        return ""
    return f"needs about {bytes_text(needed)}, and {bytes_text(plan.free)} are free"


def _measured(plan: Plan, trial: Trial) -> Run:
    found = ask({"do": "measure", **_job(plan, trial)}, plan.timeout)
    measured = {name: Measurement(unit, tuple(samples)) for name, (unit, samples) in found.get("measured", {}).items()}
    detail: dict[str, Any] = {name: found[name] for name in ("events", "failed") if name in found}
    return _run(plan, trial, measured, {**found.get("detail", {}), **detail}, bool(found.get("out_of_memory")))


class Boundary(NamedTuple):
    """The largest count that runs (0 for none), the next one, which does not, and all counts in the order tried."""

    largest: int
    first_failing: int
    tried: tuple[int, ...]


def search(runs: Callable[[int], bool], guess: int) -> Boundary:
    """Search from a guess for the size at which `runs` turns from true to false; a right guess takes two tries.

    Each count is tried once. From the guess outwards in steps that double, then by halves.
    """
    tried: dict[int, bool] = {}

    def attempt(count: int) -> bool:
        if count < 1:
            return True
        if count not in tried:
            tried[count] = runs(count)
        return tried[count]

    low, high, stride = max(guess, 0), max(guess, 0) + 1, 1
    while not attempt(low):
        low, high, stride = max(low - stride, 0), low, 2 * stride
    while attempt(high):
        low, high, stride = high, high + stride, 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if attempt(middle) else (low, middle)
    return Boundary(low, high, tuple(tried))


class _NoAnswerError(Exception):
    """Raised when a try of a search fails for another reason than memory."""


def _searched(plan: Plan, trial: Trial, model: TrialPrediction) -> Run:
    """The longest sequence within the cap, with each try in a new process."""

    def runs(count: int) -> bool:
        sized = replace(trial, case=resized(trial.case, "seq", count * GRID))
        found = ask({"do": "fit", "cap": trial.cap, **_job(plan, sized)}, plan.timeout)
        if "failed" in found:
            raise _NoAnswerError(f"seq {count * GRID}: {found['failed']}")
        return bool(found.get("runs"))

    try:
        found = search(runs, (model.boundary or (GRID, 0))[0] // GRID)
    except _NoAnswerError as error:
        return _run(plan, trial, {}, {"failed": str(error)})
    sizes = {"largest_seq": found.largest, "first_failing_seq": found.first_failing}
    tried = [count * GRID for count in found.tried]
    return _run(plan, trial, {n: Measurement("", (c * GRID,)) for n, c in sizes.items()}, {"tried": tried})


def _job(plan: Plan, trial: Trial) -> dict[str, Any]:
    return {
        "device": plan.target.device,
        "name": trial.name,
        "implementation": trial.implementation,
        "algorithm": trial.case.algorithm,
        "case": case_dict(trial.case),
        "threads": int(plan.source.environment["threads"]),
        "protocol": dict(plan.source.protocol),
    }


def _run(
    plan: Plan,
    trial: Trial,
    measured: dict[str, Measurement],
    detail: Mapping[str, Any],
    out_of_memory: bool = False,
) -> Run:
    about = {"name": trial.name, "date": today(), **detail}
    return Run(plan.source.name, trial.implementation, _ledger_case(trial), measured, out_of_memory, about)


def _ledger_case(trial: Trial) -> dict[str, Any]:
    """A trial's case in the ledger; a search has no seq, but the capacity that it searched within."""
    found = case_dict(trial.case)
    if trial.cap is None:
        return found
    return {**{name: value for name, value in found.items() if name not in ("seq", "kv_seq")}, "capacity": trial.cap}


def _is_done(plan: Plan, run: Run) -> bool:
    """Whether a record answers its trial. Running out of memory on a CPU depends on what else was running."""
    return "failed" not in run.detail and not (run.out_of_memory and plan.target.device == "cpu")


def _key(run: Run) -> tuple[str, str]:
    return run.implementation, _text(run.case)


def _text(case: Mapping[str, Any]) -> str:
    return json.dumps(dict(case), sort_keys=True)


def _how(outcome: Outcome) -> str:
    verdict = outcome.verdict
    if verdict is None:
        return f"left out: {outcome.skipped}"
    if verdict.failed:
        return f"failed: {verdict.failed}"
    result = "PROMISE BROKEN" if verdict.broken else "equal to the byte" if verdict.kept else "measured"
    return f"{result}{' (on record)' if outcome.resumed else ''}"


def broken_promises(verdicts: Iterable[Verdict]) -> Iterator[tuple[str, str]]:
    """(trial, what does not hold) of every broken promise."""
    for verdict in verdicts:
        for promise in verdict.broken:
            yield verdict.trial.name, promise

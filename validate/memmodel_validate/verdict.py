"""The verdict on a run: which promises hold beside its prediction, and how far times are off. Runs nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from statistics import median, quantiles

from memmodel.base.units import bytes_text
from memmodel_validate.events import EventMatch, compared, unpacked
from memmodel_validate.ledger import Run
from memmodel_validate.predictions import TrialPrediction
from memmodel_validate.suite import Trial

_MEMORY = ("saved", "live_peak_fwd", "live_peak_bwd", "peak_fwd", "peak_bwd", "reserved_peak_fwd", "reserved_peak_bwd")
_TIMES = ("forward_time", "backward_time")


@dataclass(frozen=True, slots=True)
class Memory:
    """One quantity in bytes; None where it was not measured or is not modelled."""

    quantity: str
    measured: float | None
    predicted: int | None

    @property
    def equal(self) -> bool | None:
        """Whether both are the same to the byte; None where there is only one."""
        return None if self.measured is None or self.predicted is None else self.measured == self.predicted


@dataclass(frozen=True, slots=True)
class Timing:
    """One time in seconds: the median of `samples` many, and their spread: the middle half's width over the median."""

    quantity: str
    measured: float
    spread: float
    samples: int
    predicted: float | None

    @property
    def ratio(self) -> float | None:
        """Predicted over measured."""
        return self.predicted / self.measured if self.predicted and self.measured else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A trial's outcome.

    Attributes:
        trial: what ran. run: its record. memory, times: by quantity. events: place by place; None where not modelled.
        context: bytes outside the allocator: measured, None on a CPU. boundary: (largest, first failing) as measured.
        prediction: the model's. broken: the promises that do not hold, in words.
    """

    trial: Trial
    run: Run
    memory: tuple[Memory, ...]
    times: tuple[Timing, ...]
    events: EventMatch | None
    context: int | None
    boundary: tuple[int, int] | None
    prediction: TrialPrediction
    broken: tuple[str, ...]

    @property
    def failed(self) -> str:
        """Why there is no measurement; empty where there is one."""
        if self.run.out_of_memory and self.prediction.fits is None and self.trial.cap is None:
            return "ran out of memory"  # of which nothing was predicted, as on a CPU
        return str(self.run.detail.get("failed", ""))

    @property
    def kept(self) -> bool:
        """Whether the trial has promises and all of them hold."""
        return self.trial.promised and not self.broken and not self.failed

    @property
    def badness(self) -> tuple[int, bool, float]:
        """The sort key of outcomes, worst first: broken promises, no measurement, large errors of times."""
        # Twice as long and half as long are equally wrong.
        off = [abs(log(t.ratio)) for t in self.times if t.ratio]
        return len(self.broken), bool(self.failed), max(off, default=0.0)


def judge(trial: Trial, run: Run, prediction: TrialPrediction) -> Verdict:
    """The verdict on a run, whose recorded events are compared with today's model."""
    ran = not run.detail.get("failed") and not run.out_of_memory
    memory = tuple(_memory(run, prediction)) if ran else ()
    events = _events(run, prediction) if ran else None
    boundary = _boundary(run)
    broken = tuple(_broken(run, prediction, memory, events, boundary)) if trial.promised else ()
    times = tuple(_times(run, prediction))
    context = int(run.measured["context"].value) if "context" in run.measured else None
    return Verdict(trial, run, memory, times, events, context, boundary, prediction, broken)


def _memory(run: Run, prediction: TrialPrediction) -> Iterator[Memory]:
    for name in _MEMORY:
        measured = _bytes(run, name)
        predicted = prediction.memory.get(name)
        if measured is not None or predicted is not None:
            yield Memory(name, measured, predicted)


def _bytes(run: Run, name: str) -> float | None:
    """A quantity as measured; bytes are whole, and a record of others is not rounded to what was predicted."""
    if name not in run.measured:
        return None
    value = float(run.measured[name].value)
    return int(value) if value.is_integer() else value


def _events(run: Run, prediction: TrialPrediction) -> EventMatch | None:
    if prediction.events is None:
        return None
    try:
        return compared(unpacked(run.detail.get("events", [])), prediction.events)
    except (ValueError, TypeError):
        return EventMatch(0, len(prediction.events), 0, "the record's events cannot be read")


def _times(run: Run, prediction: TrialPrediction) -> Iterator[Timing]:
    for name in _TIMES:
        if name in run.measured:
            samples = run.measured[name].samples
            yield Timing(name, median(samples), _spread(samples), len(samples), (prediction.times or {}).get(name))


def _spread(samples: tuple[float, ...]) -> float:
    """Third quartile less first, over the median, which single slow samples do not affect."""
    if len(samples) < 2 or not median(samples):
        return 0.0
    first, middle, third = quantiles(samples, n=4, method="inclusive")
    return (third - first) / middle


def _boundary(run: Run) -> tuple[int, int] | None:
    names = ("largest_seq", "first_failing_seq")
    if not all(name in run.measured for name in names):
        return None
    largest, first = (int(run.measured[name].value) for name in names)
    return largest, first


def _broken(
    run: Run,
    prediction: TrialPrediction,
    memory: tuple[Memory, ...],
    events: EventMatch | None,
    boundary: tuple[int, int] | None,
) -> Iterator[str]:
    if run.detail.get("failed"):
        return  # nothing was measured: reported as failed, which says nothing about the model
    if prediction.fits is not None and run.out_of_memory == prediction.fits:
        yield "ran out of memory, predicted to fit" if run.out_of_memory else "ran, predicted to run out of memory"
    for row in memory:
        if row.predicted is not None and row.measured != row.predicted:
            real = "not measured" if row.measured is None else f"{row.measured} B ({bytes_text(row.measured)})"
            yield f"{row.quantity}: {real}, predicted {row.predicted} B ({bytes_text(row.predicted)})"
    if events is not None and not events.all_equal:
        yield f"{events.equal} of {max(events.measured, events.predicted)} events equal; {events.first_difference}"
    if boundary is not None and boundary != prediction.boundary:
        yield f"longest sequence {boundary[0]}, first that fails {boundary[1]}, predicted {prediction.boundary}"

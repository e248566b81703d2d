"""Recorded numbers beside the model's: single comparisons, and summaries of many (counts, exact ones, errors)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from memmodel.base.errors import unknown

QUANTITIES = (
    "memory",
    "CPU time",
    "naive fp32 time",
    "naive 16-bit time",
    "naive short time",
    "compiled time",
    "compiled short time",
    "short time, host told",
    "naive time",
    "naive by table",
    "compiled by table",
    "flash forward time",
    "flash backward time",
    "flash step time",
    "serving prefill time",
    "serving decode time",
    "transferred fp32 time",
    "transferred 16-bit time",
    "transferred compiled time",
    "transferred prefill time",
    "transferred decode time",
    "model memory",
    "step memory",
    "step time, one GPU",
    "step time",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A recorded number beside the model's.

    Attributes:
        gpu: as the source names it. quantity: of QUANTITIES. subject: table or implementation. what: the row in words.
        measured, predicted: in `unit`: "B", "s", or "" for counts. exact: for memory.
        roofline: the error of the datasheet's roofline; None where the GPU is not known.
        low, high: the interval that the prediction states, in `unit`; None where it states none.
    """

    gpu: str
    quantity: str
    subject: str
    what: str
    measured: float
    predicted: float
    unit: str
    exact: bool | None = None
    roofline: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the measured number lies in the stated interval; None without one."""
        return None if self.low is None or self.high is None else self.low <= self.measured <= self.high

    @property
    def width(self) -> float | None:
        """The interval's length over the prediction; None without one."""
        return None if self.low is None or self.high is None else (self.high - self.low) / self.predicted

    @property
    def error(self) -> float:
        """|predicted / measured - 1|; 0 if they agree in the digits of the record."""
        if self.exact:
            return 0.0
        return abs(self.predicted / self.measured - 1) if self.measured else float(self.predicted != self.measured)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Comparisons of recorded numbers, and how many recorded times cannot be compared, by reason."""

    comparisons: tuple[Comparison, ...]
    left_out: Counter[str]
    notes: tuple[str, ...] = ()

    def __add__(self, more: "Accuracy") -> "Accuracy":
        return Accuracy(self.comparisons + more.comparisons, self.left_out + more.left_out, self.notes + more.notes)

    def only(self, gpu: str | None, quantity: str | None) -> "Accuracy":
        """Only GPUs and quantities whose names contain these texts. Raises UsageError if none is left."""
        found = self.comparisons
        for attribute, text in (("gpu", gpu), ("quantity", quantity)):
            if text is not None:
                names = {getattr(one, attribute) for one in found}
                kept = {name for name in names if _folded(text) in _folded(name)}
                if not kept:
                    raise unknown(f"{'GPU' if attribute == 'gpu' else attribute} on record", text, names)
                found = tuple(one for one in found if getattr(one, attribute) in kept)
        whole = len(found) == len(self.comparisons)
        return Accuracy(found, self.left_out if whole else Counter(), self.notes)


def _folded(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


@dataclass(frozen=True, slots=True)
class Summary:
    """Errors of a group of numbers, as fractions.

    Attributes:
        count: how many numbers. exact: how many of them are exact; None for times. p90: the 90th percentile.
        worst_row: the row with the worst error, in words. roofline: median error of the datasheet's roofline on the
            same rows; None where no GPU is known.
        inside: share of the measured numbers that lie in the stated intervals. width: median of the intervals' lengths
            over the prediction; None where no interval is stated.
    """

    gpu: str
    quantity: str
    subject: str
    count: int
    exact: int | None
    mean: float
    median: float
    p90: float
    worst: float
    worst_row: str
    roofline: float | None
    inside: float | None = None
    width: float | None = None


def summaries(comparisons: Iterable[Comparison], by_subject: bool = True) -> list[Summary]:
    """Comparison numbers by quantity, GPU and subject; or by quantity alone."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in comparisons:
        key = (one.gpu, one.quantity, one.subject) if by_subject else ("all", one.quantity, "")
        groups.setdefault(key, []).append(one)
    in_order = sorted(groups.items(), key=lambda item: QUANTITIES.index(item[0][1]))
    return [_summary(*key, found) for key, found in in_order]


def _summary(gpu: str, quantity: str, subject: str, found: Sequence[Comparison]) -> Summary:
    errors = [one.error for one in found]
    exact = [one.exact for one in found if one.exact is not None]
    rooflines = [one.roofline for one in found if one.roofline is not None]
    worst = max(found, key=lambda one: one.error)
    inside = [one.inside for one in found if one.inside is not None]
    widths = [one.width for one in found if one.width is not None]
    return Summary(
        gpu,
        quantity,
        subject,
        count=len(found),
        exact=sum(exact) if exact else None,
        mean=fmean(errors),
        median=median(errors),
        p90=float(np.quantile(errors, 0.9)),
        worst=worst.error,
        worst_row=worst.what,
        roofline=median(rooflines) if rooflines else None,
        inside=fmean(inside) if inside else None,
        width=median(widths) if widths else None,
    )

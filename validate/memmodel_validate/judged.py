"""One recorded number beside the model's, and summaries of many: counts, exact ones, errors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

QUANTITIES = (
    "memory",
    "CPU time",
    "naive time",
    "compiled time",
    "flash forward time",
    "flash backward time",
    "flash step time",
)


@dataclass(frozen=True, slots=True)
class Judged:
    """One recorded number beside the model's.

    Attributes:
        gpu: as the source names it. quantity: of QUANTITIES. subject: table or implementation. what: the row in words.
        measured, predicted: in `unit`: "B", "s", or "" for counts. exact: for memory.
        roofline: the error of the datasheet's roofline; None where the GPU is not known.
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

    @property
    def error(self) -> float:
        """|predicted / measured - 1|; 0 where the record's own digits hide the rest."""
        if self.exact:
            return 0.0
        return abs(self.predicted / self.measured - 1) if self.measured else float(self.predicted != self.measured)


@dataclass(frozen=True, slots=True)
class Summary:
    """Errors of a group: how many, how many exact, mean, median, 90th percentile, worst and which row that is."""

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
    roofline: float | None  # median error of the datasheet's roofline on the same rows


def summaries(judged: Iterable[Judged], by_subject: bool = True) -> list[Summary]:
    """Judged numbers by quantity, GPU and subject; or by quantity alone."""
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for one in judged:
        key = (one.quantity, one.gpu, one.subject) if by_subject else (one.quantity, "all", "")
        groups.setdefault(key, []).append(one)
    return [
        _summary(key, found) for key, found in sorted(groups.items(), key=lambda item: QUANTITIES.index(item[0][0]))
    ]


def _summary(key: tuple[str, str, str], found: Sequence[Judged]) -> Summary:
    errors = [one.error for one in found]
    exact = [one.exact for one in found if one.exact is not None]
    plain = [one.roofline for one in found if one.roofline is not None]
    worst = max(found, key=lambda one: one.error)
    quantity, gpu, subject = key
    return Summary(
        gpu,
        quantity,
        subject,
        len(found),
        sum(exact) if exact else None,
        fmean(errors),
        median(errors),
        percentile(errors, 0.9),
        worst.error,
        worst.what,
        median(plain) if plain else None,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, linear between them."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

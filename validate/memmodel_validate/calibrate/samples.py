"""Samples of a kernel's time, and the constants made of them. Pure: no clock is read here."""

from collections.abc import Mapping, Sequence
from statistics import median

from memmodel.timing import Constant, Curve

Samples = Sequence[float]  # seconds of one run each


ROUNDS = 3


def rounds(samples: Samples) -> list[float]:
    """The median of each third of the samples, in order of time: what single interrupts do not move."""
    size = -(-len(samples) // ROUNDS)
    return [median(samples[start : start + size]) for start in range(0, len(samples), size)]


def typical(samples: Samples) -> float:
    """The fastest round: bursts of other processes drop out."""
    return min(rounds(samples))


def spread(samples: Samples) -> float | None:
    """(largest - smallest) / median of the rounds; None for fewer than two."""
    found = rounds(samples)
    return (max(found) - min(found)) / median(found) if len(found) > 1 else None


def rate(amount: float, samples: Samples, origin: str) -> Constant:
    """Amount per second by the typical sample."""
    return Constant(amount / typical(samples), origin, spread(samples))


def seconds(samples: Samples, origin: str) -> Constant:
    """A duration by the typical sample."""
    return Constant(typical(samples), origin, spread(samples))


def curve(points: Mapping[float, tuple[float, Samples]], origin: str) -> Constant:
    """A rate by size, of size -> (amount, samples of its time); the spread is that of the point that has most.

    Times that fall with size are noise, and would make the model's fall: a point is held to the time of the smaller one
    before it.
    """
    rates, last = [], 0.0
    for size, (amount, samples) in sorted(points.items()):
        last = max(last, typical(samples) * size / amount)  # the time of `size` at this point's rate
        rates.append((float(size), size / last))
    spreads = [found for _, samples in points.values() if (found := spread(samples)) is not None]
    return Constant(Curve(rates), origin, max(spreads, default=None))


def net(samples: Samples, overhead: float) -> list[float]:
    """Samples without what the model counts beside the kernel (its launch); of each at least a quarter stays."""
    return [max(sample - overhead, sample / 4) for sample in samples]


def faster(first: Constant, second: Constant, unit: str) -> Constant:
    """The better of two measurements of a constant, of a curve's at each size: the other had company.

    Rates are better large, durations (unit "s") and sizes ("B") small.
    """
    if isinstance(first.value, Curve) and isinstance(second.value, Curve):
        points = zip(first.value, second.value, strict=True)
        best: float | Curve = Curve((size, max(rate, other)) for (size, rate), (_, other) in points)
    elif isinstance(first.value, Curve) or isinstance(second.value, Curve):
        raise TypeError("a curve and a number are not of one constant")
    else:
        best = (min if unit in ("s", "B") else max)(first.value, second.value)
    spreads = [spread for spread in (first.spread, second.spread) if spread is not None]
    return Constant(best, first.origin, max(spreads, default=None))

"""Ceilings: the limits of a kernel, and the one that binds.

Williams, Waterman and Patterson, "Roofline" (2009), kernel by kernel: a kernel takes the time of its slowest ceiling
plus that which no ceiling covers: its launch, work that does not overlap, the last wave.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

LAUNCH_SECONDS = 2e-6  # gap between kernels that are queued back to back: 1 to 3 us (assumption, not calibrated)


class Ceiling(NamedTuple):
    """One limit of a kernel: amount / rate = seconds.

    Attributes:
        name: "tensor cores", "fp32 units", "exp units", "HBM", ... amount and rate: in FLOP, operations or bytes (per
            second).
        source: of the rate, in words.
    """

    name: str
    amount: float
    rate: float
    source: str

    @property
    def seconds(self) -> float:
        """Time at this ceiling alone."""
        return self.amount / self.rate


class KernelTime(NamedTuple):
    """A kernel's time, made by `at_slowest`.

    Attributes:
        ceilings: its limits. beside: seconds that no ceiling covers, by name ("launch", "no overlap", "waves").
        seconds: time at the binding ceiling, plus that beside it.
        binding: the ceiling that takes longest.
    """

    name: str
    ceilings: tuple[Ceiling, ...]
    beside: Mapping[str, float]
    seconds: float
    binding: Ceiling


def at_slowest(name: str, ceilings: tuple[Ceiling, ...], beside: Mapping[str, float]) -> KernelTime:
    """The time of a kernel at the slowest of its ceilings, and beside them."""
    binding = max(ceilings, key=lambda ceiling: ceiling.seconds)
    return KernelTime(name, ceilings, beside, binding.seconds + sum(beside.values()), binding)


def share_by_ceiling(kernels: Iterable[KernelTime]) -> dict[str, float]:
    """Seconds by binding ceiling, largest first; seconds beside the ceilings have their own names."""
    shares: dict[str, float] = {}
    for kernel in kernels:
        for name, seconds in ((kernel.binding.name, kernel.binding.seconds), *kernel.beside.items()):
            shares[name] = shares.get(name, 0.0) + seconds
    return dict(sorted(shares.items(), key=lambda item: -item[1]))

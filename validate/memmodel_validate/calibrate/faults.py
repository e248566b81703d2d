"""Page faults on a CPU: the size from which allocations get fresh pages, and the rate of first writes to them."""

import ctypes
import resource
from collections.abc import Callable
from contextlib import suppress

import torch

from memmodel.base.units import MiB
from memmodel.timing import Constant
from memmodel_validate.calibrate.clock import Clock
from memmodel_validate.calibrate.samples import spread, typical

SIZES = tuple(size * MiB for size in (1, 2, 4, 8, 16, 24, 28, 31, 32, 48, 64))
WRITTEN = 64 * MiB
_LARGEST_REUSED = 31 * MiB  # below the cap of glibc's mmap threshold: freeing it raises the threshold to there


def fault_from() -> Constant | None:
    """The smallest size from which each allocation gets fresh pages, by the process's count of page faults.

    The state is that of a process that has freed large tensors before, as training loops have. None where even the
    largest size tried is given again.
    """
    torch.empty(_LARGEST_REUSED, dtype=torch.uint8).fill_(1)
    _give_back()
    found = first_fresh(SIZES, fresh_share)
    return None if found is None else Constant(float(found), "page faults of empty(n).fill_(1), again and again")


def first_fresh(sizes: tuple[int, ...], share: Callable[[int], float]) -> int | None:
    """The first size from which every larger one has at least half of its pages fresh."""
    fresh = None
    for size in reversed(sizes):
        if share(size) < 0.5:
            break
        fresh = size
    return fresh


def fresh_share(size: int, times: int = 4) -> float:
    """The share of a tensor's bytes that come on fresh pages, when it is made, written and dropped again and again."""
    torch.empty(size, dtype=torch.uint8).fill_(1)
    before = _faults()
    for _ in range(times):
        torch.empty(size, dtype=torch.uint8).fill_(1)
    return (_faults() - before) * resource.getpagesize() / (times * size)


def _give_back() -> None:
    """Have the C library return what is free at the end of its heap, which would serve the next allocation."""
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def fault_rate(clock: Clock) -> Constant:
    """Bytes a second of the faults alone: the time to add into a new tensor, less that into an old one."""
    a, b = (torch.randn(WRITTEN // 4) for _ in range(2))
    out = torch.empty_like(a)
    fresh = clock.samples(lambda: a + b, 0.8)
    there = typical(clock.samples(lambda: torch.add(a, b, out=out), 0.4))
    faults = [max(sample - there, sample / 10) for sample in fresh]
    return Constant(WRITTEN / typical(faults), "a + b less add(a, b, out=), of 64 MiB each", spread(faults))

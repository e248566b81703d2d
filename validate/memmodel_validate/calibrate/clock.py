"""Samples of the time that a function takes on a device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch

Run = Callable[[], object]
LEAST = 9  # samples, so that the median of a third of them is of three
MOST = 600
BATCH_SECONDS = 2e-3  # of GPU runs that share two events: long against an event's resolution of half a microsecond
SPIN_CYCLES = 2_000_000  # about a millisecond: the GPU waits while the host enqueues a batch


class Clock:
    """Times functions on the CPU, in this thread, run by run."""

    device = "cpu"

    def samples(self, run: Run, budget: float = 0.3) -> list[float]:
        """Seconds of one run each: at least LEAST, more while `budget` seconds last. Two runs come before."""
        run()
        batch = self.batch(run)
        found: list[float] = []
        end = perf_counter() + budget
        while len(found) < LEAST or (perf_counter() < end and len(found) < MOST):
            found.append(self.once(run, batch))
        return found

    def batch(self, run: Run) -> int:
        """The number of runs in a sample."""
        run()
        return 1

    def once(self, run: Run, batch: int) -> float:
        """Seconds of a run, as the mean of a batch."""
        start = perf_counter()
        for _ in range(batch):
            run()
        return (perf_counter() - start) / batch


class CudaClock(Clock):
    """Times what functions enqueue on the current stream, by events, behind a spin that hides the host's dispatch."""

    device = "cuda"

    def batch(self, run: Run) -> int:
        """The number of runs that takes some milliseconds and fits into the queue of a stream (1024 launches)."""
        return max(1, min(200, int(BATCH_SECONDS / max(self.once(run, 3), 1e-7))))

    def once(self, run: Run, batch: int) -> float:
        """Seconds of a run, as the mean of a batch."""
        cuda: Any = torch.cuda
        first, last = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda._sleep(SPIN_CYCLES)
        first.record()
        for _ in range(batch):
            run()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) * 1e-3 / batch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch on `count` threads, as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

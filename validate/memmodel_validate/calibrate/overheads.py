"""Overheads of an operation: the gap between kernels, and the host's time forward and backward."""

from time import perf_counter

import torch

from memmodel.timing import Constant
from memmodel_validate.calibrate.clock import Clock
from memmodel_validate.calibrate.samples import seconds

CHAIN = 200  # tiny operations in a row: fewer than a stream queues
REPEATS = 9


def dispatch(device: str) -> Constant:
    """Host seconds of a forward operation that autograd records, on a tensor of 16 elements."""
    x = torch.randn(16, device=device, requires_grad=True)
    return seconds([_forward(x)[0] / CHAIN for _ in range(REPEATS)][1:], f"{CHAIN} products of 16 elements by a number")


def dispatch_backward(device: str) -> Constant:
    """Host seconds of a backward operation."""
    x = torch.randn(16, device=device, requires_grad=True)
    samples = []
    for _ in range(REPEATS):
        _, y = _forward(x)
        _wait(device)
        start = perf_counter()
        torch.autograd.backward(y, torch.ones_like(y))
        samples.append((perf_counter() - start) / CHAIN)
        _wait(device)
    return seconds(samples[1:], f"backward of {CHAIN} products of 16 elements by a number")


def _forward(x: torch.Tensor) -> tuple[float, torch.Tensor]:
    _wait(x.device.type)
    start, y = perf_counter(), x
    for _ in range(CHAIN):
        y = y * 1.5
    return perf_counter() - start, y


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def launch(clock: Clock) -> Constant:
    """Seconds from kernel to kernel: on a GPU of queued kernels of one element; on a CPU an operation's own time.

    A CPU runs a kernel where it is dispatched, so the two do not overlap as a GPU's do.
    """
    x = torch.randn(1, device=clock.device)
    if clock.device == "cpu":
        return seconds([clock.once(lambda: x * 1.5, 1000) for _ in range(REPEATS)][1:], "x * 1.5 of one element")
    return seconds(clock.samples(lambda: x.mul_(1.0)), "mul_ of one element, queued back to back")

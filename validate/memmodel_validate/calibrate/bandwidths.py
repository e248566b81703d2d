"""Bandwidths by kind of kernel and by size: elementwise, reductions, softmax, masks, on random data."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from memmodel.base.units import MiB
from memmodel.timing import Constant
from memmodel_validate.calibrate.clock import Clock
from memmodel_validate.calibrate.samples import Samples, curve, net, rate

MOVED = (1 * MiB, 4 * MiB, 16 * MiB, 64 * MiB, 256 * MiB)  # bytes that a kernel reads and writes
ROW = 1024  # elements of a row: one warp's on a GPU, in L1 on a CPU
RING = 6  # tensors used in turn, as many as a step of naive attention makes of the scores' size


class Kind(NamedTuple):
    """A kind of kernel.

    Attributes:
        run: the kernel, of `operands` tensors of rows of ROW elements. moved: bytes that it reads and writes, in
            sizes of such a tensor. origin: the call, in words. square: whether tensors are squares of ROW x ROW.
    """

    name: str
    run: Callable[..., object]
    operands: int
    moved: float
    origin: str
    devices: str = "cpu cuda"
    dtype: torch.dtype = torch.float32
    square: bool = False
    ring: int = RING


@cache
def _triangle(device: torch.device) -> torch.Tensor:
    return torch.ones(ROW, ROW, dtype=torch.bool, device=device).triu(1)


def _softmax_backward(grad: torch.Tensor, probs: torch.Tensor, out: torch.Tensor) -> object:
    return torch.ops.aten._softmax_backward_data.out(grad, probs, -1, torch.float32, grad_input=out)


KINDS = (
    Kind("bandwidth", lambda a, b, out: torch.add(a, b, out=out), 3, 3, "add(a, b, out=)"),
    Kind("reduction", lambda a: a.sum(-1), 1, 1 + 1 / ROW, "sum over rows of 1024"),
    # a number and an int64 index a row are written
    Kind("argmax", lambda a: a.max(-1), 1, 1 + 3 / ROW, "max with indices over rows of 1024"),
    Kind("softmax", lambda a, out: torch.softmax(a, -1, out=out), 2, 2, "softmax(out=) over rows of 1024"),
    Kind("softmax_backward", _softmax_backward, 3, 3, "softmax's backward into a given tensor, rows of 1024", "cpu"),
    # the mask's bytes are read once, the tensor's count as written
    Kind("masked_fill", lambda a: a.masked_fill_(_triangle(a.device), 0.0), 1, 1, "masked_fill_ by a triangle", "cpu",
         square=True),
    Kind("triangle", lambda mask, out: torch.triu(mask, 1, out=out), 2, 2, "triu(out=) of a bool mask", "cpu",
         torch.bool, ring=2),
    Kind("bernoulli", lambda a: a.bernoulli_(0.9), 1, 2, "bernoulli_, rows of 1024", "cpu"),
)  # fmt: skip


class Ring:
    """Tensors used in turn, as in a step, where a kernel reads tensors that were written some kernels before.

    On one set of tensors, sizes up to the cache's would stay in it, which a chain of kernels does not see.
    """

    def __init__(self, first: torch.Tensor, size: int = RING) -> None:
        self.tensors = [first, *(first.clone() for _ in range(size - 1))]
        self.turn = 0

    def next(self, count: int) -> list[torch.Tensor]:
        """The next `count` tensors, the ring's least recently written last."""
        self.turn += 1
        return [self.tensors[(self.turn + i) % len(self.tensors)] for i in range(count)]


def measure_curve(kind: Kind, clock: Clock, overhead: float) -> Constant:
    """The bandwidth of a kind of kernel over the sizes of MOVED, without the launch that the model adds."""
    points: dict[float, tuple[float, Samples]] = {}
    for size in MOVED:
        rows = max(int(size / (int(kind.moved) * kind.dtype.itemsize)) // ROW, 1)
        shape = (max(rows // ROW, 1), ROW, ROW) if kind.square else (rows, ROW)
        ring = Ring(torch.randn(shape, device=clock.device).to(kind.dtype), kind.ring)
        moved = kind.moved * ring.tensors[0].nbytes + (ROW * ROW if kind.square else 0)
        points[moved] = moved, net(clock.samples(lambda ring=ring: kind.run(*ring.next(kind.operands))), overhead)  # type: ignore[misc]
    return curve(points, kind.origin)


def measure_exp(clock: Clock) -> Constant:
    """Exponentials a second on a tensor that fits a cache, where memory does not bind."""
    a = torch.randn(1024, ROW, device=clock.device)
    out = torch.empty_like(a)
    return rate(float(a.numel()), clock.samples(lambda: torch.exp(a, out=out)), "exp(a, out=) of 4 MiB")

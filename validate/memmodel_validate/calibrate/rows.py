"""Bandwidths by kind of kernel and by size: elementwise, reductions, softmax, masks, on random data."""

from collections.abc import Callable

import torch

from memmodel.timing import Constant
from memmodel.units import MiB
from memmodel_validate.calibrate.clock import Clock, Run
from memmodel_validate.calibrate.samples import curve, net, rate

MOVED = (1 * MiB, 4 * MiB, 16 * MiB, 64 * MiB, 256 * MiB)  # bytes that a kernel reads and writes
ROW = 1024  # elements of a row: one warp's on a GPU, in L1 on a CPU
RING = 6  # tensors that take turns: as many of the scores' size as a step of naive attention makes

Make = Callable[[int, str], tuple[float, Run]]  # rows, device -> bytes moved, what to run


class Ring:
    """Tensors that take turns, as those of a step do: what a kernel reads was written some kernels ago.

    On one set of tensors, sizes up to the cache's would stay in it, which a chain of kernels does not see.
    """

    def __init__(self, first: torch.Tensor) -> None:
        self.tensors = [first, *(first.clone() for _ in range(RING - 1))]
        self.turn = 0

    def next(self, count: int) -> list[torch.Tensor]:
        """The next `count` tensors, the ring's least recently written last."""
        self.turn += 1
        return [self.tensors[(self.turn + i) % RING] for i in range(count)]


def _ring(rows: int, device: str) -> Ring:
    return Ring(torch.randn(rows, ROW, device=device))


def add(rows: int, device: str) -> tuple[float, Run]:
    """Two tensors read, one written, no allocation."""
    ring = _ring(rows, device)

    def run() -> None:
        a, b, out = ring.next(3)
        torch.add(a, b, out=out)

    return 3.0 * ring.tensors[0].nbytes, run


def summed(rows: int, device: str) -> tuple[float, Run]:
    """A tensor read, a number a row written."""
    ring = _ring(rows, device)
    nbytes = ring.tensors[0].nbytes
    return nbytes + nbytes / ROW, lambda: ring.next(1)[0].sum(-1)


def maxima(rows: int, device: str) -> tuple[float, Run]:
    """A tensor read; a number and an int64 index a row written."""
    ring = _ring(rows, device)
    nbytes = ring.tensors[0].nbytes
    return nbytes + 3.0 * nbytes / ROW, lambda: ring.next(1)[0].max(-1)


def softmax(rows: int, device: str) -> tuple[float, Run]:
    """Rows of ROW elements: once in, once out."""
    ring = _ring(rows, device)

    def run() -> None:
        a, out = ring.next(2)
        torch.softmax(a, -1, out=out)

    return 2.0 * ring.tensors[0].nbytes, run


def softmax_backward(rows: int, device: str) -> tuple[float, Run]:
    """Gradient and output read, gradient written."""
    ring = _ring(rows, device)
    kernel = torch.ops.aten._softmax_backward_data.out

    def run() -> None:
        grad, probs, out = ring.next(3)
        kernel(grad, probs, -1, torch.float32, grad_input=out)

    return 3.0 * ring.tensors[0].nbytes, run


def masked_fill(rows: int, device: str) -> tuple[float, Run]:
    """Squares of ROW x ROW under one triangular mask: its bytes read once, the tensor's counted as written."""
    ring = Ring(torch.randn(rows // ROW, ROW, ROW, device=device))
    mask = torch.ones(ROW, ROW, dtype=torch.bool, device=device).triu(1)
    return float(ring.tensors[0].nbytes + mask.nbytes), lambda: ring.next(1)[0].masked_fill_(mask, 0.0)


def triangle(rows: int, device: str) -> tuple[float, Run]:
    """A bool mask of rows x ROW read and written."""
    mask = torch.ones(rows, ROW, dtype=torch.bool, device=device)
    out = torch.empty_like(mask)
    return 2.0 * mask.nbytes, lambda: torch.triu(mask, 1, out=out)


def bernoulli(rows: int, device: str) -> tuple[float, Run]:
    """Dropout's noise: random zeros and ones in place, which counts as read and written."""
    ring = _ring(rows, device)
    return 2.0 * ring.tensors[0].nbytes, lambda: ring.next(1)[0].bernoulli_(0.9)


# name, benchmark, bytes that it moves for each row of fp32, on which devices, origin
CURVES: tuple[tuple[str, Make, float, str, str], ...] = (
    ("bandwidth", add, 12.0, "cpu cuda", "add(a, b, out=)"),
    ("reduction", summed, 4.0, "cpu cuda", "sum over rows of 1024"),
    ("argmax", maxima, 4.0, "cpu cuda", "max with indices over rows of 1024"),
    ("softmax", softmax, 8.0, "cpu cuda", "softmax(out=) over rows of 1024"),
    ("softmax_backward", softmax_backward, 12.0, "cpu", "softmax's backward into a given tensor, rows of 1024"),
    ("masked_fill", masked_fill, 4.0, "cpu", "masked_fill_ by a triangle"),
    ("triangle", triangle, 2.0, "cpu", "triu(out=) of a bool mask"),
    ("bernoulli", bernoulli, 8.0, "cpu", "bernoulli_, rows of 1024"),
)


def measure_curve(name: str, make: Make, per_element: float, clock: Clock, overhead: float, origin: str) -> Constant:
    """The bandwidth of a kind of kernel over the sizes of MOVED, without the launch that the model adds."""
    points = {}
    for size in MOVED:
        rows = max(int(size / per_element) // ROW, 1)
        if name == "masked_fill":
            rows = max(rows // ROW, 1) * ROW  # whole squares
        moved, run = make(rows, clock.device)
        points[moved] = moved, net(clock.samples(run), overhead)
    return curve(points, origin)


def measure_exp(clock: Clock) -> Constant:
    """Exponentials a second on a tensor that fits a cache, where memory does not bind."""
    a = torch.randn(1024, ROW, device=clock.device)
    out = torch.empty_like(a)
    return rate(float(a.numel()), clock.samples(lambda: torch.exp(a, out=out)), "exp(a, out=) of 4 MiB")

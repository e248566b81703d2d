"""What all harnesses share: a row's sizes, inputs, gradients that are dropped."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

Mark = Callable[[str], None]
Attention = Callable[..., Any]  # (xp, q, k, v) or (xp, q, k, v, mask)


class Row(NamedTuple):
    """A row of a table: tensors of (batch, seq, d), and how often the script's loops of 100 are run.

    One iteration of each loop reaches the steady state of memory; a test holds more to the same bytes.
    """

    batch: int
    seq: int
    d: int
    warm_up: int = 1
    measured: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of q, k, v and the output."""
        return self.batch, self.seq, self.d

    def iterations(self) -> Iterator[bool]:
        """One item per iteration: whether it is measured."""
        yield from [False] * self.warm_up + [True] * self.measured


class Harness(Protocol):
    """A script's use of memory for one row."""

    def __call__(self, xp: Any, row: Row, mark: Mark) -> None:
        """Run it on a library's tensors; `mark` begins a phase."""


def inputs(xp: Any, row: Row, requires_grad: bool = True) -> list[Any]:
    """New q, k and v on the GPU."""
    return [xp.randn(*row.shape, device="cuda", requires_grad=requires_grad) for _ in range(3)]


def drop_grads(*tensors: Any) -> None:
    """`.grad = None`, as `zero_grad()` does."""
    for x in tensors:
        x.grad = None


def earlier_size(xp: Any, attention: Attention) -> None:
    """A step of another size, of which only the threads' cuBLAS workspaces stay."""
    q, k, v = inputs(xp, Row(1, 256, 16))
    attention(xp, q, k, v).sum().backward()

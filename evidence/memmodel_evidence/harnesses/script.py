"""What all harnesses share: inputs, iterations, gradients that are dropped."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from memmodel_evidence.records import Row

Mark = Callable[[str], None]
Attention = Callable[..., Any]  # (xp, q, k, v) or (xp, q, k, v, mask)
WARM_UP, MEASURED = 2, 2


class Harness(Protocol):
    """A script's use of memory for one row."""

    def __call__(self, xp: Any, run: Row, mark: Mark) -> None:
        """Run it."""


def shape(run: Row) -> tuple[int, int, int]:
    """Of q, k, v and the output: (batch, seq, d)."""
    return run.batch, run.seq, run.d


def inputs(xp: Any, run: Row, requires_grad: bool = True) -> list[Any]:
    """New q, k and v on the GPU."""
    return [xp.randn(*shape(run), device="cuda", requires_grad=requires_grad) for _ in range(3)]


def drop_grads(*tensors: Any) -> None:
    """`.grad = None`, as `zero_grad()` does."""
    for x in tensors:
        x.grad = None


def iterations() -> Iterator[bool]:
    """One item per iteration: whether it is measured."""
    yield from [False] * WARM_UP + [True] * MEASURED


def earlier_size(xp: Any, attention: Attention) -> None:
    """A step of another size, of which only the threads' cuBLAS workspaces stay."""
    q, k, v = (xp.randn(1, 256, 16, device="cuda", requires_grad=True) for _ in range(3))
    attention(xp, q, k, v).sum().backward()

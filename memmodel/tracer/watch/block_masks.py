"""Counts of the scores that a block mask leaves, by running its mask function on positions.

Tensors that the function reads and whose data a trace does not have are taken as zeros, so that all positions are alike
(one document), and as true, so that they hide nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from memmodel.tracer.corrections.torch_types import number
from memmodel.tracer.private.dispatch import tree_map_only, without_function_modes, without_modes
from memmodel.tracer.private.fake import is_fake
from memmodel.tracer.watch.known import assumed_of, computed_value

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # batch, head, query, key -> whether it is seen
_MOST_PAIRS = 1 << 27  # that a mask function is run on; of larger masks it is run on rows of blocks at equal distances
_SAMPLES = 8  # rows of blocks by which a mask is recognized
_ROWS = 128


class Counted(NamedTuple):
    """Counts of a mask.

    Attributes:
        blocks: those with a pair in them. pairs: those that are seen. sampled: whether rows of blocks stand for others.
        assumed: whether the mask function read tensors without data.
    """

    blocks: int
    pairs: int
    sampled: bool = False
    assumed: bool = False


def counted(mask: MaskFunction, shape: tuple[int, int, int, int], rows: int, columns: int) -> Counted:
    """Blocks of `rows` queries by `columns` keys, and pairs, that a mask leaves of (b, h, n, m) scores."""
    b, h, n, m = shape
    total = -(-n // rows)
    taken = max(1, min(total, _MOST_PAIRS // (b * h * rows * m)))
    # The middles of equal stretches, whose mean is exact where rows grow evenly, as a causal mask's do.
    starts = [(2 * i + 1) * total // (2 * taken) * rows for i in range(taken)]
    blocks = pairs = 0
    with _with_data() as standing:
        for batch, head, start in ((x, y, z) for x in range(b) for y in range(h) for z in starts):
            seen = _seen(mask, batch, head, range(start, min(start + rows, n)), m)
            with without_function_modes():
                pairs += int(seen.sum())
                in_blocks = torch.nn.functional.pad(seen.any(0), (0, -m % columns)).view(-1, columns)
                blocks += int(in_blocks.any(-1).sum())
    if taken < total:
        blocks, pairs = (round(x * total / taken) for x in (blocks, pairs))
    return Counted(blocks, pairs, taken < total, standing.assumed)


def is_causal(mask: MaskFunction, n: int) -> bool:
    """Whether a mask of n queries and keys is the causal one, as far as some rows tell; not where it cannot run."""
    starts = {i * (n - 1) // (_SAMPLES - 1) for i in range(_SAMPLES)}
    try:
        with _with_data():
            for start in starts:
                positions = range(start, min(start + _ROWS, n))
                seen = _seen(mask, 0, 0, positions, n)
                with without_function_modes():
                    if not seen.equal(torch.arange(n) <= torch.tensor(positions)[:, None]):
                        return False
    except (RuntimeError, IndexError, TypeError):
        return False
    return True


def _seen(mask: MaskFunction, batch: int, head: int, queries: range, m: int) -> Tensor:
    """A bool tensor (queries, m): which keys each query sees."""
    rows = torch.arange(queries.start, queries.stop)[:, None]
    found = mask(torch.tensor(batch), torch.tensor(head), rows, torch.arange(m)[None])
    return found.expand(len(queries), m)


@contextmanager
def _with_data() -> Iterator["_Standing"]:
    """Within, nothing is traced, and tensors without data have some."""
    with without_modes(), _Standing() as standing:
        yield standing


class _Standing(TorchFunctionMode):
    """Hands tensors with data to functions that are given some without.

    Attributes:
        assumed: whether the data of one was not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.assumed = False
        self._values: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_map_only(Tensor, self._value, (args, kwargs or {}))
        args, kwargs = tree_map_only(torch.SymInt, number, given)
        with without_function_modes():
            return func(*args, **kwargs)

    def _value(self, x: Tensor) -> Tensor:
        if not is_fake(x):
            return x
        if id(x) not in self._values:
            known = computed_value(x)
            self.assumed |= known is None or bool(assumed_of(x))
            shape = tuple(map(number, x.shape))
            stands = torch.full(shape, x.dtype is torch.bool, dtype=x.dtype) if known is None else known
            # With x itself, so that its id stays its own.
            self._values[id(x)] = x, stands
        return self._values[id(x)][1]

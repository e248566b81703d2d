"""What a fused kernel may do, on real tensors: run tiles in a loop, load and store them.

The recording twin is `memmodel.recording.FusedKernel`; `kernel(...)` picks the one that fits the tensors.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from memmodel.masks import Mask
from memmodel_kernels.namespace import namespace


class LoopedKernel:
    """A fused kernel carried out tile by tile in Python: slow, exact, for checking."""

    def __init__(self, name: str, reads: Sequence[Any], writes: Sequence[Any], gradient: bool = False) -> None:
        self.name = name

    def __enter__(self) -> "LoopedKernel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tiles(self, size: int, step: int) -> Iterator[slice]:
        """The programs of the grid: one per tile of `step` rows; the last may be smaller."""
        for start in range(0, size, step):
            yield slice(start, min(start + step, size))

    def visited(self, mask: Mask, tile: slice, n: int, m: int, rows: int, cols: int) -> Iterator[slice]:
        """The key tiles that hold a pair with a tile of queries."""
        yield from _visited(mask, tile, n, m, cols)

    def visiting(self, mask: Mask, tile: slice, n: int, m: int, rows: int, cols: int) -> Iterator[slice]:
        """The query tiles that hold a pair with a tile of keys."""
        for queries in self.tiles(n, rows):
            if any(keys == tile for keys in _visited(mask, queries, n, m, cols)):
                yield queries

    def load(self, x: Any, tile: slice, heads: int | None = None) -> Any:
        """One tile of `x` (along its third dimension), its heads repeated to `heads`."""
        loaded = x[:, :, tile]
        return loaded if heads in (None, x.shape[1]) else loaded.repeat_interleave(heads // x.shape[1], dim=1)

    def store(self, x: Any, tile: slice, value: Any) -> None:
        """A tile of `x`, written."""
        x[:, :, tile] = value

    def accumulate(self, x: Any, tile: slice, value: Any) -> None:
        """A tile of `x`, added to in memory."""
        x[:, :, tile] += value

    def full(self, like: Any, columns: Sequence[int], value: float, dtype: Any) -> Any:
        """A constant tile with the rows of `like`."""
        return like.new_full((*like.shape[:3], *columns), value, dtype=dtype)

    def masked(self, scores: Any, mask: Mask, rows: slice, cols: slice, n: int, m: int) -> Any:
        """The scores, -inf where a pair does not count."""
        if not mask.causal:
            return scores
        xp = namespace(scores)
        query = xp.arange(rows.start, rows.stop, device=scores.device)[:, None] + (m - n)
        key = xp.arange(cols.start, cols.stop, device=scores.device)[None, :]
        blocked = key > query
        if mask.window is not None:
            blocked = blocked | (key <= query - mask.window)
        return scores.masked_fill(blocked, float("-inf"))


def _visited(mask: Mask, tile: slice, n: int, m: int, cols: int) -> Iterator[slice]:
    first, last = 0, m
    if mask.causal:
        last = min(m, tile.stop + m - n)
        if mask.window is not None:
            first = max(0, tile.start + m - n - mask.window + 1)
    for start in range(first // cols * cols, last, cols):
        yield slice(start, min(start + cols, m))


def kernel(name: str, reads: Sequence[Any], writes: Sequence[Any], gradient: bool = False) -> Any:
    """A fused kernel that reads and writes the tensors given: a context for what happens on chip.

    `gradient` says that it computes a gradient: such kernels have rates of their own.
    """
    xp = namespace(reads[0])
    return (LoopedKernel if xp.__name__ == "torch" else xp.FusedKernel)(name, reads, writes, gradient)

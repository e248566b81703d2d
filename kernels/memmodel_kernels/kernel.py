"""The operations of a fused kernel on real tensors: loop over tiles, load and store them.

The recording twin is `memmodel.recording.FusedKernel`; `kernel(...)` picks the one that fits the tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from memmodel.attention.masks import Mask
from memmodel.sizes.dims import Dim
from memmodel_kernels.namespace import namespace


class Part(NamedTuple):
    """A part of a tensor that a kernel reads or writes, by its bytes."""

    nbytes: Dim


def seen(x: Any, mask: Mask, n: Dim) -> Any:
    """Keys or values (b, g, m, d) as a kernel of n queries reads them: those that a window hides from all stay."""
    b, g, m, d = x.shape
    return x if mask.window is None else Part(b * g * mask.keys(n, m) * d * x.dtype.itemsize)


class LoopedKernel:
    """A fused kernel carried out tile by tile in Python: slow, exact, for checking."""

    def __init__(
        self,
        name: str,
        reads: Sequence[Any],
        writes: Sequence[Any],
        gradient: bool = False,
        scratch: Sequence[Any] = (),
    ) -> None:
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

    def parts(self, first: int, last: int, step: int, count: int) -> Iterator[tuple[int, slice]]:
        """The numbers of `count` parts of the keys, and their keys: whole blocks of `step`, or none."""
        # Parts are of whole blocks, so that no block is cut but at the ends of the keys.
        start, blocks = first // step, -(-last // step) - first // step
        each = -(-blocks // count)
        for part in range(count):
            low, high = (start + min(i * each, blocks) for i in (part, part + 1))
            yield part, slice(max(first, low * step), min(last, high * step))

    def blocks(self, span: slice, step: int, pairs: int) -> Iterator[slice]:
        """The key tiles of a part; over all programs they hold `pairs` pairs of each key head."""
        for start in range(span.start, span.stop, step):
            yield slice(start, min(start + step, span.stop))

    def append(self, cache: Any, new: Any, start: int, table: Any) -> None:
        """New tokens, written to a cache from position `start` on."""
        stop = start + new.shape[2]
        if table is None:
            cache[:, :, start:stop] = new.to(cache.dtype)
        else:
            pages, places = _in_pages(cache, slice(start, stop), table)
            cache[pages, :, places] = new.to(cache.dtype).transpose(1, 2)

    def cached(self, cache: Any, tile: slice, table: Any) -> Any:
        """A tile of the keys or values of every sequence, through the block table if there is one."""
        if table is None:
            return cache[:, :, tile]
        pages, places = _in_pages(cache, tile, table)
        return cache[pages, :, places].transpose(1, 2)

    def load(self, x: Any, tile: slice, heads: int | None = None) -> Any:
        """One tile of `x` (along its third dimension), its heads repeated to `heads`."""
        loaded = x[:, :, tile]
        return loaded if heads in (None, x.shape[1]) else loaded.repeat_interleave(heads // x.shape[1], dim=1)

    def load_pairs(self, x: Any, like: Any, rows: slice, cols: slice) -> Any:
        """A block of `x` (b, h, n, m), whose outer dimensions and rows may be one for all of `like`."""
        return x[:, :, rows if x.shape[2] > 1 else slice(None), cols]

    def store(self, x: Any, tile: slice, value: Any) -> None:
        """A tile of `x`, written."""
        x[:, :, tile] = value

    def store_part(self, x: Any, tile: slice, part: int, count: int, value: Any) -> None:
        """The tile of one part of `x` (b, g x count, rows, ...), written: to as many columns as `value` has."""
        columns = (slice(value.shape[-1]),) if value.ndim == 4 else ()
        x[(slice(None), slice(part, None, count), tile, *columns)] = value

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
        # Several heads of n queries each may be rows of one tile.
        query = xp.arange(rows.start, rows.stop, device=scores.device)[:, None] % n + (m - n)
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


def _in_pages(cache: Any, tile: slice, table: Any) -> tuple[Any, Any]:
    """The page of each position of a tile, (b, positions), and its place in that page, (positions,)."""
    positions = namespace(cache).arange(tile.start, tile.stop, device=cache.device)
    return table[:, positions // cache.shape[2]].long(), positions % cache.shape[2]


def kernel(
    name: str, reads: Sequence[Any], writes: Sequence[Any], gradient: bool = False, scratch: Sequence[Any] = ()
) -> Any:
    """A fused kernel that reads and writes the tensors given: a context for what happens on chip.

    `gradient` says that it computes a gradient: such kernels have rates of their own. `scratch` it writes and reads
    again, which another kernel for the same results need not.
    """
    xp = namespace(reads[0])
    return (LoopedKernel if xp.__name__ == "torch" else xp.FusedKernel)(name, reads, writes, gradient, scratch)


def fused(
    name: str, reads: Sequence[Any], writes: Sequence[Any], compute: Callable[[], None], gradient: bool = False
) -> None:
    """One kernel that reads and writes these tensors; on torch, what it computes."""
    with kernel(name, reads=reads, writes=writes, gradient=gradient):
        if namespace(reads[0]).__name__ == "torch":
            compute()

"""A fused kernel: the same operations as outside, on tensors in registers and shared memory, so nothing is allocated.

Only the work counts. A loop over tiles runs its body once, on one whole tile, and multiplies by the number of tiles:
hardware computes whole tiles, so that the counts are those of the machine. Beside them stands the work that the results
need: the same body for each row, or each pair that the mask leaves, as if tiles had no edges.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from memmodel.attention.masks import Mask
from memmodel.base.dtypes import DType
from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.sizes.dims import Dim, ceil_div, product, same
from memmodel.tensors.autograd import grad_mode
from memmodel.tensors.tape import Tape
from memmodel.tensors.tensor import Storage, Tensor


class FusedKernel:
    """A context whose body is recorded as one launch. Its methods are those of `memmodel_kernels.kernel`."""

    def __init__(
        self,
        name: str,
        reads: Sequence[Any],
        writes: Sequence[Any],
        gradient: bool = False,
        scratch: Sequence[Any] = (),
    ) -> None:
        self.name, self.gradient = name, gradient
        self.reads, self.writes, self.scratch = reads, writes, scratch
        self.tape: Tape = reads[0].storage.tape
        self.grids: list[Dim] = []  # of each grid: programs, blocks, blocks of the longest, rows, columns
        self.row_tiles: tuple[Dim, Dim] = (1, 1)  # of the current grid, by key head: whole ones, and as rows need
        self.key_blocks: Dim = 1  # that these visit in all

    def __enter__(self) -> "FusedKernel":
        self.tape.fused += 1
        self.tape.inner = self.total = self.needed = Work()
        self._mode = grad_mode(self.tape, False)
        self._mode.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._mode.__exit__(None, None, None)
        self.tape.fused -= 1
        if error[0] is not None:
            return
        read, written, again = (sum((x.nbytes for x in xs), start=0) for xs in (self.reads, self.writes, self.scratch))
        operands, results = (sum((x.nbytes for x in once(xs)), start=0) for xs in (self.reads, self.writes))
        done, least = self.total + self.tape.inner, self.needed + self.tape.inner
        work = Work(done.matmul, done.vector, done.exp, read + again, written + again, l2=done.read + done.written)
        needed = Work(least.matmul, least.vector, least.exp, operands, results, l2=least.read + least.written)
        dtype, sizes = self.reads[0].dtype, tuple(self.grids)
        self.tape.launch(Launch(self.name, work, dtype, "fused", sizes, gradient=self.gradient, needed=needed))

    def tiles(self, size: Dim, step: int) -> Iterator[int]:
        """Iterate over the programs of the grid, one per tile of `step` rows."""
        count = ceil_div(size, step)
        self.row_tiles = count, size / step
        programs = count * product(self.reads[0].shape[:-2])
        self.grids += (programs, programs, 1, step, self.reads[0].shape[-1])
        yield from self._repeated(count, size / step, step)

    def visited(self, mask: Mask, tile: int, n: Dim, m: Dim, rows: int, cols: int) -> Iterator[int]:
        """Iterate over the key tiles of a query tile; over all programs these are the mask's blocks."""
        blocks = mask.blocks(n, m, rows, cols)
        self._visits(blocks, mask.most_keys(n, m, rows, cols))
        yield from self._repeated(blocks, mask.pairs(n, m) / (rows * cols), cols)

    def visiting(self, mask: Mask, tile: int, n: Dim, m: Dim, rows: int, cols: int) -> Iterator[int]:
        """Iterate over the query tiles of a key tile; over all programs these are the mask's blocks."""
        blocks = mask.blocks(n, m, rows, cols)
        self._visits(blocks, mask.most_queries(n, m, rows, cols))
        yield from self._repeated(blocks, mask.pairs(n, m) / (rows * cols), rows)

    def parts(self, first: Dim, last: Dim, step: int, count: int) -> Iterator[tuple[int, Dim]]:
        """Iterate over the parts of the keys, each of them a program of every tile of rows."""
        whole, needed = self.row_tiles
        blocks = ceil_div(last, step) - first // step
        self.key_blocks = whole * blocks
        self.grids[-5] *= count
        self._visits(self.key_blocks, ceil_div(blocks, count))
        for _ in self._repeated(whole * count, needed, step):
            yield 0, last - first

    def blocks(self, span: Dim, step: int, pairs: Dim) -> Iterator[int]:
        """Iterate over the key tiles of the parts; over all programs they hold `pairs` pairs of each key head."""
        yield from self._repeated(self.key_blocks, pairs / (self.grids[-2] * step), step)

    def append(self, cache: Tensor, new: Tensor, start: Dim, table: Any) -> None:
        """Write new tokens to a cache."""
        self.tape.inner += Work(read=new.nbytes, written=new.numel() * cache.dtype.itemsize)

    def cached(self, cache: Tensor, tile: int, table: Any) -> Tensor:
        """Read a tile of the keys or values of every sequence."""
        loaded = self._on_chip((self.reads[0].shape[0], cache.shape[1], tile, cache.shape[-1]), cache.dtype)
        self.tape.inner += Work(read=loaded.nbytes)
        return loaded

    def _visits(self, blocks: Dim, longest: Dim) -> None:
        self.grids[-4:-2] = blocks * product(self.reads[0].shape[:-2]), longest

    def _repeated(self, times: Dim, needed: Dim, step: int) -> Iterator[int]:
        """Run the body once, on a tile of `step`: it counts `times` times, of which results need `needed`."""
        outside, self.tape.inner = self.tape.inner, Work()
        yield step
        self.total += self.tape.inner * times
        self.needed += self.tape.inner * needed
        self.tape.inner = outside

    def load(self, x: Tensor, tile: int, heads: Dim | None = None) -> Tensor:
        """Read a tile of `x`. With `heads`, that many programs each read one, from the heads of `x` that they share."""
        shape = (x.shape[0], x.shape[1] if heads is None else heads, tile, *x.shape[3:])
        loaded = self._on_chip(shape, x.dtype)
        self.tape.inner += Work(read=loaded.nbytes)
        return loaded

    def load_pairs(self, x: Tensor, like: Tensor, rows: int, cols: int) -> Tensor:
        """Read a block of `x` (b, h, n, m), which may have one row for all; each program of `like` reads its own."""
        loaded = self._on_chip((*like.shape[:2], 1 if same(x.shape[2], 1) else rows, cols), x.dtype)
        self.tape.inner += Work(read=loaded.nbytes)
        return loaded

    def store(self, x: Tensor, tile: int, value: Tensor) -> None:
        """Write a tile of `x`."""
        self.tape.inner += Work(written=value.numel() * x.dtype.itemsize)

    def store_part(self, x: Tensor, tile: int, part: int, count: int, value: Tensor) -> None:
        """Write a tile of one part of `x`."""
        self.store(x, tile, value)

    def accumulate(self, x: Tensor, tile: int, value: Tensor) -> None:
        """Add to a tile of `x` in memory, by atomics."""
        self.tape.inner += Work(vector=value.numel(), written=value.nbytes)

    def full(self, like: Tensor, columns: Sequence[Dim], value: float, dtype: DType) -> Tensor:
        """A constant tile with the rows of `like`."""
        return self._on_chip((*like.shape[:3], *columns), dtype)

    def masked(self, scores: Tensor, mask: Mask, rows: int, cols: int, n: Dim, m: Dim) -> Tensor:
        """Set masked scores to -inf: a comparison and a select, only in blocks that the mask's edge crosses."""
        self.total += Work(vector=2 * scores.numel()) * mask.edge_blocks(n, rows, cols)
        return scores

    def drop(self, probs: Tensor) -> None:
        """Compare a random number for each weight, and select."""
        self.tape.inner += Work(vector=2 * probs.numel())

    def _on_chip(self, shape: Sequence[Dim], dtype: DType) -> Tensor:
        size = tuple(shape)
        storage = Storage(self.tape, product(size) * dtype.itemsize, size, dtype, "tile", "temporary")
        return Tensor(storage, size, None, dtype)


def once(tensors: Sequence[Any]) -> list[Any]:
    """Each of the tensors once: a kernel that passes over one several times names it as often."""
    return list({id(x): x for x in tensors}.values())

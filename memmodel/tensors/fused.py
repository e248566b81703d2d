"""A fused kernel: the same operations as outside, on tensors in registers and shared memory, so nothing is allocated.

Only the work counts. A loop over tiles runs its body once, on one whole tile, and multiplies by the number of tiles:
hardware computes whole tiles, so that the counts are those of the machine. Beside them stands the work that the results
need: the same body for each row, or each pair that the mask leaves, as if tiles had no edges.
"""

from collections.abc import Iterator, Sequence

from memmodel.dims import Dim, ceil_div, product
from memmodel.dtypes import DType
from memmodel.masks import Mask
from memmodel.program import Launch
from memmodel.tensors.autograd import grad_mode
from memmodel.tensors.tape import Tape
from memmodel.tensors.tensor import Storage, Tensor
from memmodel.work import Work


class FusedKernel:
    """A context whose body is recorded as one launch. Its methods are those of `memmodel_kernels.kernel`."""

    def __init__(self, name: str, reads: Sequence[Tensor], writes: Sequence[Tensor], gradient: bool = False) -> None:
        self.name, self.gradient = name, gradient
        self.reads, self.writes = reads, writes
        self.tape: Tape = reads[0].storage.tape
        self.grids: list[Dim] = []  # of each grid: programs, blocks, blocks of the longest, rows, columns

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
        read = sum((x.nbytes for x in self.reads), start=0)
        written = sum((x.nbytes for x in self.writes), start=0)
        work, needed = (
            Work(done.matmul, done.vector, done.exp, read, written, l2=done.read + done.written)
            for done in (self.total + self.tape.inner, self.needed + self.tape.inner)
        )
        dtype, sizes = self.reads[0].dtype, tuple(self.grids)
        self.tape.launch(Launch(self.name, work, dtype, "fused", sizes, gradient=self.gradient, needed=needed))

    def tiles(self, size: Dim, step: int) -> Iterator[int]:
        """Iterate over the programs of the grid, one per tile of `step` rows."""
        count = ceil_div(size, step)
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

    def store(self, x: Tensor, tile: int, value: Tensor) -> None:
        """Write a tile of `x`."""
        self.tape.inner += Work(written=value.numel() * x.dtype.itemsize)

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

    def _on_chip(self, shape: Sequence[Dim], dtype: DType) -> Tensor:
        size = tuple(shape)
        storage = Storage(self.tape, product(size) * dtype.itemsize, size, dtype, "tile", "temporary")
        return Tensor(storage, size, None, dtype)

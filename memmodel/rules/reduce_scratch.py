"""Scratch of CUDA reductions: partial results of thread blocks that share outputs, and their counters.

Source: aten/src/ATen/native/cuda/Reduce.cuh (setReduceConfig, get_output_vec_size, global_memory_size,
semaphore_size) and TensorIterator's order of dimensions: reduced ones first. A sum down the columns of a matrix, such
as the gradient of a bias, reserves a whole block's width per output, far more than it writes.

Sizes are ints or arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

from memmodel.sizes.dims import Dim, ceil_div, hint, in_array, maximum, minimum, product, same
from memmodel.tensors.layout import Strided

_THREADS = 512  # of a thread block (MAX_REDUCE_THREADS)
_WARP = 32
_FEW, _MANY = 16, 256  # elements a thread should reduce at least, and at most, before more blocks share an output
_COUNTER = 4  # bytes: int32
Dims = list[tuple[Dim, Dim]]  # (size, stride), the fastest first


class Operand(NamedTuple):
    """A reduction's operand: reduced and kept dimensions, contiguous neighbours merged, and its offset in elements."""

    reduced: Dims
    kept: Dims
    offset: Dim = 0

    def in_arrays(self) -> "Operand":
        """The operand with its sizes as arrays, whose elements can be compared."""
        reduced, kept = ([(in_array(n), in_array(step)) for n, step in dims] for dims in (self.reduced, self.kept))
        return Operand(reduced, kept, in_array(self.offset))


def operand(x: Strided, dims: Sequence[int]) -> Operand:
    """The operand in TensorIterator's order of dimensions. `dims` are reduced; an empty list means all."""
    gone = {d % len(x.shape) for d in dims} if dims and x.shape else set(range(len(x.shape)))
    both = [(x.shape[d], x.strides[d], d in gone) for d in reversed(range(len(x.shape))) if not same(x.shape[d], 1)]
    reduced = sorted(((size, stride) for size, stride, is_gone in both if is_gone), key=lambda d: hint(d[1]))
    return Operand(_merged(reduced), _merged([(n, step) for n, step, is_gone in both if not is_gone]), x.offset)


def _merged(dims: Dims) -> Dims:
    found: Dims = []
    for size, stride in dims:
        if found and same(found[-1][0] * found[-1][1], stride):
            found[-1] = found[-1][0] * size, found[-1][1]
        else:
            found.append((size, stride))
    return found


def reduction_scratch(x: Strided, dims: Sequence[int], item: int, resident_threads: int) -> tuple[Dim, Dim]:
    """Bytes of partial results and of counters; both 0 if each output is reduced by one thread block.

    Args:
        x: the operand.
        dims: the reduced dimensions, empty for all.
        item: bytes of a partial result.
        resident_threads: multiprocessors times the threads that each holds.
    """
    seen = operand(x, dims)
    outputs, inputs = product(n for n, _ in seen.kept), product(n for n, _ in seen.reduced)
    along = not seen.kept or (bool(seen.reduced) and hint(seen.reduced[0][1]) < hint(seen.kept[0][1]))
    # Too few elements per thread for a second block. A block along the reduced dimensions has 512 threads.
    if _most(inputs) <= (_MANY - 1) * (_THREADS if along else 1):
        return 0, 0
    seen, outputs, inputs = seen.in_arrays(), in_array(outputs), in_array(inputs)
    vector: Dim = 1 if along else _vector(seen)
    wide, high = (inputs, outputs) if along else (outputs // vector, inputs)
    width, height = _block(wide, high, _THREADS // vector)
    across, step = (ceil_div(inputs, width), 1) if along else (inputs, width)
    per_thread = ceil_div(inputs, height * (width if along else 1))
    grid, target = ceil_div(outputs // vector, step), resident_threads // (width * height)
    blocks = maximum(minimum(ceil_div(target, grid), ceil_div(per_thread, _FEW)), ceil_div(per_thread, _MANY))
    # Blocks share outputs only if rows reduce together, threads have enough elements, and outputs do not fill the GPU.
    shared = (across >= minimum(height * _FEW, _MANY)) & (per_thread >= _MANY) & (grid <= target) & (blocks > 1)
    return shared * (item * outputs * blocks * (1 if along else width * vector)), shared * (_COUNTER * grid)


def _block(wide: Dim, high: Dim, threads: Dim) -> tuple[Dim, Dim]:
    """Width and height of a thread block: powers of two, up to a warp wide, then high, then wider."""
    most_wide, most_high = (minimum(_power_of_two(n), threads) for n in (wide, high))
    height = minimum(most_high, threads // minimum(most_wide, _WARP))
    return minimum(most_wide, threads // height), height


def _vector(x: Operand) -> Dim:
    """Neighbouring outputs that a thread reads at once: 4 where sizes, strides and address allow it, else 2 or 1."""
    (size, stride), *others = x.kept
    if not same(stride, 1):
        return 1
    numbers = (x.offset, size, *(step for _, step in (*x.reduced, *others)))
    fours, twos = (product((n % v == 0) * 1 for n in numbers) for v in (4, 2))
    return 1 + twos + 2 * fours


def _most(n: Dim) -> int:
    return int(n if isinstance(n, int) else n.max())


def _power_of_two(n: Dim) -> Dim:
    """The largest power of two up to n, at least 1."""
    if isinstance(n, int):
        return 1 << (max(n, 1).bit_length() - 1)
    import numpy as np

    return np.int64(1) << (np.frexp(np.maximum(n, 1).astype(np.float64))[1].astype(np.int64) - 1)

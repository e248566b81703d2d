"""What a CUDA reduction leaves in global memory: partial results of thread blocks that share outputs, and counters.

Source: aten/src/ATen/native/cuda/Reduce.cuh (setReduceConfig, get_output_vec_size, global_memory_size,
semaphore_size) and TensorIterator's order of dimensions: reduced ones first. A sum down the columns of a matrix, such
as the gradient of a bias, reserves a full block's width per output and so far more than it writes.
"""

from collections.abc import Sequence
from typing import NamedTuple

_THREADS = 512  # of a thread block (MAX_REDUCE_THREADS)
_WARP = 32
_FEW, _MANY = 16, 256  # elements a thread should reduce at least, and at most, before more blocks share an output
_COUNTER = 4  # bytes: int32
Dims = list[tuple[int, int]]  # (size, stride), the fastest first


class Layout(NamedTuple):
    """A reduction's operand: elements, with neighbouring dimensions merged; `offset` is its first one's."""

    reduced: Dims
    kept: Dims
    offset: int = 0


def layout(sizes: Sequence[int], strides: Sequence[int], dims: Sequence[int], offset: int = 0) -> Layout:
    """The operand as TensorIterator sees it. `dims`: those that are reduced; none of them stands for all."""
    gone = {d % len(sizes) for d in dims} if dims and sizes else set(range(len(sizes)))
    both = [(sizes[d], strides[d], d in gone) for d in reversed(range(len(sizes))) if sizes[d] != 1]
    reduced = sorted(((size, stride) for size, stride, is_gone in both if is_gone), key=lambda d: d[1])
    return Layout(_merged(reduced), _merged([(size, stride) for size, stride, is_gone in both if not is_gone]), offset)


def _merged(dims: Dims) -> Dims:
    found: Dims = []
    for size, stride in dims:
        if found and found[-1][0] * found[-1][1] == stride:
            found[-1] = found[-1][0] * size, found[-1][1]
        else:
            found.append((size, stride))
    return found


def reduction_scratch(x: Layout, item: int, resident_threads: int) -> tuple[int, int]:
    """Bytes of partial results and of counters; 0 where each output is one thread block's.

    item: bytes of a partial result. resident_threads: multiprocessors times the threads that each holds.
    """
    outputs, inputs = _product(x.kept), _product(x.reduced)
    along = not x.kept or (bool(x.reduced) and x.reduced[0][1] < x.kept[0][1])
    vector = 1 if along else _vector(x)
    wide, high = (inputs, outputs) if along else (outputs // vector, inputs)
    width, height = _block(wide, high, _THREADS // vector)
    per_thread, step = (_up(inputs, width), 1) if along else (inputs, width)
    if per_thread < min(height * _FEW, _MANY):  # each row of the block has outputs of its own
        return 0, 0
    per_thread = _up(inputs, height * (width if along else 1))
    grid, target = _up(outputs // vector, step), resident_threads // (width * height)
    if per_thread < _MANY or grid > target:
        return 0, 0
    blocks = max(min(_up(target, grid), _up(per_thread, _FEW)), _up(per_thread, _MANY))
    if blocks == 1:
        return 0, 0
    return item * outputs * blocks * (1 if along else width * vector), _COUNTER * grid


def _block(wide: int, high: int, threads: int) -> tuple[int, int]:
    """Width and height of a thread block: powers of two, a warp's width first, then as high, then as wide as it can."""
    most_wide, most_high = (min(_power_of_two(n), threads) for n in (wide, high))
    height = min(most_high, threads // min(most_wide, _WARP))
    return min(most_wide, threads // height), height


def _vector(x: Layout) -> int:
    """Neighbouring outputs that a thread reads at once: 4 where sizes, strides and the address allow it."""
    (size, stride), *others = x.kept
    if stride != 1:
        return 1
    numbers = (x.offset, size, *(s for _, s in (*x.reduced, *others)))
    return next(v for v in (4, 2, 1) if all(n % v == 0 for n in numbers))


def _power_of_two(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def _product(dims: Dims) -> int:
    total = 1
    for size, _ in dims:
        total *= size
    return total


def _up(n: int, by: int) -> int:
    return -(-n // by)

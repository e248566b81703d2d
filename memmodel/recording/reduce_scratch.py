"""Scratch of a CUDA sum of everything: partial sums of its thread blocks, and the counter they meet at.

Source: aten/src/ATen/native/cuda/Reduce.cuh (setReduceConfig, global_memory_size, semaphore_size). Bytes are
raw. Sums of many rows need none: there each thread block has rows of its own. Not modelled: few rows of 2^17
elements and more.
"""

from memmodel.dims import Dim, ceil_div, maximum, minimum

_THREADS = 512  # of a thread block (MAX_REDUCE_THREADS)
_FEW, _MANY = 16, 256  # elements a thread should sum at least, and at most, before more blocks share the work
_ACCUMULATOR = _COUNTER = 4  # bytes: fp32, int32


def reduce_scratch(count: Dim, resident_threads: int) -> tuple[Dim, Dim]:
    """Bytes of partial sums and counter for `count` contiguous elements; 0 where one block sums them all."""
    per_thread = ceil_div(count, _THREADS)
    filled = minimum(resident_threads // _THREADS, ceil_div(per_thread, _FEW))
    blocks = maximum(filled, ceil_div(per_thread, _MANY))
    shared = 1 * (per_thread >= _MANY)
    return shared * blocks * _ACCUMULATOR, shared * _COUNTER

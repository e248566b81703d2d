"""Indexing: gathers read only the elements they pick, scatters write only theirs; gradients sort the indices.

Sources: aten/src/ATen/native/cuda/Embedding.cu, EmbeddingBackwardKernel.cu, Indexing.cu (index_put_with_sort_kernel),
IndexKernel.cpp (``masked_scatter_cuda_``), TensorAdvancedIndexing.cpp (masked_scatter_backward_symint), Sorting.cpp,
Distributions.cpp (multinomial_out), native/Embedding.cpp (embedding_dense_backward_cpu).
"""

from typing import Any

from memmodel.base.dtypes import DType, float32, float64, int64
from memmodel.rules.dispatch import aten
from memmodel.rules.libraries import left_out
from memmodel.rules.operator import (
    FREED,
    RESULTS,
    Call,
    Result,
    Scratch,
    Spec,
    Steps,
    contiguous,
    kernel,
    makes,
    moves,
    rule,
    scratch_like,
)
from memmodel.sizes.dims import Dim, hint, maximum, minimum
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor

_FEW_INDICES = 3072  # up to so many, embedding's backward sums without sorting
_ROWS_PER_PART = 10  # NROWS_PER_THREAD: rows that one warp sums
_SHORT_ROWS = 4096  # rows up to this length are sorted in place
_ONE_BLOCK = 400  # rows that one thread block searches for the largest


@rule("embedding")
def embedded(call: Call) -> Steps:
    """The rows that indices pick; these are flattened, which copies expanded ones (native/Embedding.cpp)."""
    indices = yield from contiguous(call.args[1])
    yield RESULTS
    yield moves("gather", [indices, call.out], [call.out])


@rule("index", "_unsafe_index", "gather", "index_select", "take", "masked_select")
def gathered(call: Call) -> Steps:
    """Read the indices and the elements that they pick."""
    yield RESULTS
    if call.op == "gather":
        yield from _in_fp32(call)
    yield moves("gather", [*call.tensors()[1:], call.out], [call.out])


def _in_fp32(call: Call) -> Steps:
    """The copy in fp32 of 16-bit results that a CPU works on (ScatterGatherKernel.cpp, create_acc_buffer)."""
    if call.device.name == "cpu" and call.out.dtype.itemsize == 2:
        yield scratch_like(call.out, float32)
        yield FREED


@rule("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy")
def scattered(call: Call) -> Steps:
    """In place, only the elements written count; out of place, the whole input is copied."""
    yield RESULTS
    if call.op == "scatter" and not call.in_place:  # in place, logs of real runs leave its buffer out (cpu_events.py)
        yield from _in_fp32(call)
    elif call.op == "index_add" and call.device.name == "cpu" and call.args[1] == 0 and call.out.dtype.itemsize == 2:
        yield Scratch(call.out.shape[1:], float32)  # a row of sums; all of them where rows are of a few elements
        yield FREED
    if call.in_place:
        given = call.tensors()  # the last one, the values, is as large as what is written
        yield moves("scatter", given[1:], given[-1:], in_place=True)
    else:
        yield moves("scatter", call.tensors(), [call.out])


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(call: Call) -> Steps:
    """Accumulation on CUDA sorts the indices, linearised to one int64 each, and copies non-contiguous values."""
    yield RESULTS
    accumulates = call.args[3] if len(call.args) > 3 else call.named.get("accumulate", False)
    indices = [x for x in call.args[1] if isinstance(x, Strided)]
    if accumulates and indices and call.device.name == "cuda":
        n: Dim = 1
        for x in indices:
            n = maximum(n, x.numel())
        yield from contiguous(call.args[2])
        yield _numbers(n)
        yield from _sorted_with_places(n, int64)
        yield left_out("the histograms of its radix sort, tens of KiB")
    given = call.tensors()
    if call.in_place:
        yield moves("scatter", given[1:], given[-1:], in_place=True)
    else:
        yield moves("scatter", given, [call.out])


def _numbers(n: Dim, kind: DType = int64) -> Scratch:
    return Scratch((n,), kind)


def _sorted_with_places(n: Dim, kind: DType) -> Steps:
    """A radix sort of n keys with their positions: both results, the input positions, and a double buffer."""
    yield from (_numbers(n, kind), _numbers(n, kind), _numbers(n, kind), _numbers(2 * n, kind), FREED, FREED)


@rule("embedding_dense_backward")
def embedding_backward(call: Call) -> Steps:
    """Few indices are summed unsorted; more are sorted, split into parts of 10 rows, and summed part by part."""
    grad, indices, _, _, by_frequency = call.args
    if call.device.name == "cpu":
        yield RESULTS
        yield from contiguous(indices)
        yield from contiguous(grad)
    else:
        yield from contiguous(indices)
        yield from contiguous(grad)
        yield from (RESULTS,) if indices.at_most(_FEW_INDICES) and not by_frequency else _summed_by_parts(call)
    yield moves("embedding_backward", [grad, indices], [call.out], gradient=True)


def _summed_by_parts(call: Call) -> Steps:
    grad, indices, vocabulary, _, by_frequency = call.args
    n, kind = indices.numel(), indices.dtype
    # Upper bounds: the host does not wait for the numbers of different indices and of parts, which the GPU finds.
    segments = minimum(n, vocabulary)
    parts = n // _ROWS_PER_PART + segments
    yield from _sorted_with_places(n, kind)
    if by_frequency:
        yield _numbers(n, kind)
    yield RESULTS
    yield from (_numbers(n, kind), _numbers(1), _numbers(segments, kind), _numbers(segments, kind), _numbers(1))
    yield _numbers(parts, kind)
    yield _numbers(parts * grad.shape[-1], float64 if grad.dtype is float64 else float32)
    yield left_out("the histograms of its radix sort, tens of KiB")


@rule("masked_scatter")
def masked_scatter(call: Call) -> Steps:
    """On CUDA, int64 prefix sums of the mask give the position of each value."""
    yield RESULTS
    if call.device.name == "cuda":
        yield scratch_like(call.args[1], int64)
    yield moves("masked_scatter", call.tensors(), [call.out], in_place=call.in_place)


@rule("masked_scatter_backward")
def masked_scatter_backward(call: Call) -> Steps:
    """The mask is counted; picked values and zeros for the rest, together of the result's size, are concatenated."""
    yield scratch_like(call.args[1], int64)
    yield FREED
    yield scratch_like(call.out)
    yield Result(0)
    yield moves("masked_select", call.tensors(), [call.out], gradient=True)


@rule("multinomial")
def multinomial(call: Call) -> Steps:
    """A single draw, or draws without replacement, divide by a random number per element."""
    yield RESULTS
    # The largest of p / q with q exponential is a draw from p, so that argmax or topk replaces prefix sums.
    if len(call.args) > 2 and call.args[2] and call.args[1] != 1:
        if call.device.name == "cuda":
            yield left_out("the prefix sums of draws with replacement")
    else:
        yield scratch_like(call.args[0])
    yield moves("multinomial", call.tensors(), [call.out])


@rule("sort", "topk")
def ordered(call: Call) -> Steps:
    """Values and indices; long rows take scratch of a size that no source states."""
    x, dim = call.args[0], call.named.get("dim")
    yield RESULTS
    if x.shape and call.device.name == "cuda":
        length = hint(x.shape[dim if isinstance(dim, int) else -1])
        if call.op == "sort" and length > _SHORT_ROWS:
            yield left_out("the scratch of sorting rows longer than 4,096")
        elif call.op == "topk" and length >= _ONE_BLOCK:
            yield left_out("the counts of topk by several thread blocks per row, up to 0.5 KiB a block")
    yield kernel(call.op, [x], call.results, x.dtype)


@rule("unfold_backward")
def unfold_backward(call: Call) -> Steps:
    """Scratch: an int64 index for each element of the unfolded dimension."""
    sizes, dim = call.args[1], call.args[2]
    yield RESULTS
    yield _numbers(sizes[dim])
    yield moves("unfold_backward", call.args[:1], [call.out], gradient=True)


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Steps:
    """A copy; the CPU makes its operand contiguous first."""
    yield RESULTS
    if call.device.name == "cpu":
        yield from contiguous(call.args[0])
    yield moves("pixel_shuffle", call.args[:1], [call.out])


makes("embedding")(lambda weight, indices: Spec((*indices.shape, weight.shape[1]), weight.dtype))
makes("embedding_dense_backward")(lambda grad, _, vocabulary, *__: Spec((vocabulary, grad.shape[-1]), grad.dtype))


class Embedding(Op):
    """Rows of a weight; saves their indices."""

    def forward(self, weight: Tensor, indices: Tensor) -> Tensor:
        """One gather."""
        self.vocabulary = weight.shape[0]
        self.save(indices=indices)
        return aten("embedding", weight, indices)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """A dense gradient of the whole weight."""
        return aten("embedding_dense_backward", grad, self.unpack("indices"), self.vocabulary, -1, False), None


def embedding(input: Tensor, weight: Tensor) -> Any:
    """The row of `weight` (vocabulary, width) for each index of `input`."""
    return Embedding.apply(weight, input)

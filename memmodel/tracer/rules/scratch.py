"""What an operator's kernel allocates inside and frees again: by operator, from the source named in `sources.py`."""

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from memmodel.dims import Shape
from memmodel.dtypes import DType
from memmodel.gpus import Gpu
from memmodel.program import Alloc
from memmodel.recording.device import CUDA, Device
from memmodel.tracer.rules.attention import scratch_of_efficient_backward, scratch_of_flash_backward
from memmodel.tracer.rules.kinds import count, kind_of, number, plain_dims
from memmodel.tracer.rules.reductions import layout, reduction_scratch

Scratch = tuple[Any, Shape, DType]  # bytes, shape, element type
_MATRIX = {"bmm": (0, 1), "mm": (0, 1), "baddbmm": (1, 2), "addmm": (1, 2)}
_COPIED = {  # operands that the kernel copies where they are not contiguous, on both devices
    "_softmax": (0,),
    "_log_softmax": (0,),
    "_log_softmax_backward_data": (0, 1),
    "native_layer_norm_backward": (0,),
}
_COPIED_ON_CPU = {"embedding_dense_backward": (0,), "log_sigmoid_forward": (0,), "pixel_shuffle": (0,)}
_COPIED_FIRST = {"native_layer_norm": (0,), "native_layer_norm_backward": (1,)}  # likewise, before the results
_POWER_OF_NUMBER = torch.ops.aten.pow.Scalar  # its result is made before the exponents are converted
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_CUMULATIVE = ("cumsum", "cumprod", "logcumsumexp")
_SUMS = ("sum", "mean", "prod", "nansum")
_PARTIAL = {  # bytes of a partial result of a reduction; where it is not here, those of the result, at least fp32's
    "amax": 0,  # the operand's own
    "amin": 0,
    "any": 1,
    "all": 1,
    "argmax": 16,  # a value and its int64 place
    "argmin": 16,
    "var": 16,  # mean, sum of squares and two counts
    "std": 16,
    "var_mean": 16,
    "std_mean": 16,
}


# Resident threads of a multiprocessor by compute capability (CUDA C++ Programming Guide, "Compute Capabilities").
_THREADS_PER_SM = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (12, 0): 1536}


def habits(gpu: Gpu) -> Device:
    """What CUDA's kernels allocate on this GPU, whose size bounds how many thread blocks share a reduction."""
    if "sm_count" not in gpu.values or gpu.compute_capability is None:
        return CUDA
    return CUDA._replace(resident_threads=gpu.sm_count * _THREADS_PER_SM.get(gpu.compute_capability, 2048))


def scratch(func: Any, args: Any, kwargs: Any, out: Any, device: Device) -> Iterator[Scratch]:
    """What the operator's kernel allocates and frees inside, after its results."""
    op = func._schema.name.removeprefix("aten::")
    copied = _COPIED.get(op, ()) or (_COPIED_ON_CPU.get(op, ()) if device.name == "cpu" else ())
    yield from (like(args[i]) for i in copied if not _contiguous(args[i]))
    if op == "_softmax_backward_data":
        if device.softmax_backward_scratch or not _contiguous(args[0]):
            yield like(args[0])
    elif op in _MATRIX and device.gemm_packs_operands:
        yield from (like(args[i]) for i in _MATRIX[op] if not _has_unit_stride(args[i]))
    elif op in _CUMULATIVE and args[0].dtype is not out.dtype:
        yield like(args[0], out.dtype)
    elif op == "native_layer_norm_backward" and device.name == "cpu":
        yield from _partial_gradients(args)
    elif func is _POWER_OF_NUMBER and not device.casts_in_kernels:
        yield from _converted(op, args, out)
    elif op in _OTHERS:
        yield from _OTHERS[op](args)
    elif op in _SUMS or op in _PARTIAL or op in ("max", "min", "linalg_vector_norm"):
        yield from _of_reduction(func, op, args, kwargs, out, device)


def is_shared_scratch(event: Alloc) -> bool:
    """Whether thread blocks share it in a reduction: it comes in steps, so that formulas leave it out."""
    return event.dtype.name == "uint8" and event.role == "temporary"


def copies(func: Any, args: Any, out: Any, device: Device) -> Iterator[Scratch]:
    """Copies of operands that are made before the results: contiguous ones; on the CPU also in the common type."""
    op = func._schema.name.removeprefix("aten::")
    yield from (like(args[i]) for i in _COPIED_FIRST.get(op, ()) if not _contiguous(args[i]))
    if device.casts_in_kernels or torch.Tag.pointwise not in func.tags:
        return
    if op in ("_to_copy", "copy_", "clone", "where", "masked_fill") or op.startswith("bitwise"):
        return
    if func is not _POWER_OF_NUMBER:
        yield from _converted(op, args, out)


def _converted(op: str, args: Any, out: Any) -> Iterator[Scratch]:
    """Operands of another type than an elementwise kernel computes in."""
    given = [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.dim()]
    if given:
        common = _common_type(op, args, given, out)
        yield from (like(x, common) for x in given if x.dtype is not common)


def _common_type(op: str, args: Any, given: Sequence[Tensor], out: Any) -> torch.dtype:
    """The type in which an elementwise kernel computes: that of its result, unless it compares."""
    common = reduce(torch.promote_types, (x.dtype for x in given))
    if op in _COMPARISONS:
        return torch.result_type(args[0], args[1])
    wider = isinstance(out, Tensor) and out.dtype is not torch.bool and not common.is_floating_point
    return torch.promote_types(common, out.dtype) if wider else common


def like(x: Tensor, dtype: torch.dtype | None = None) -> Scratch:
    """A copy of a tensor, in another type where one is given."""
    kind = kind_of(dtype or x.dtype)
    return count(x) * kind.itemsize, plain_dims(x.shape), kind


def _contiguous(x: Tensor) -> bool:
    return bool(x.is_contiguous())


def _has_unit_stride(x: Tensor) -> bool:
    """Whether cuBLAS can read the matrix: one of the last two strides is 1 and the other spans the rows."""
    (rows, cols), (down, across) = x.shape[-2:], x.stride()[-2:]
    return _leading(across, down, cols) or _leading(down, across, rows)


def _leading(unit: Any, leading: Any, size: Any) -> bool:
    return number(unit) == 1 and number(leading) >= max(1, number(size))


def _of_reduction(func: Any, op: str, args: Any, kwargs: Any, out: Any, device: Device) -> Iterator[Scratch]:
    """A copy in the type that is summed, and on CUDA what thread blocks share."""
    x, first = args[0], out if isinstance(out, Tensor) else out[0]
    if reads_a_copy(op, x, first.dtype, device):
        yield like(x, first.dtype)
    sizes = (*x.shape, *x.stride(), x.storage_offset())
    if device.resident_threads and x.dim() and all(isinstance(n, int) for n in sizes):
        dims = _argument(func, args, kwargs, "dim")
        operand = layout(x.shape, x.stride(), _dims(dims), x.storage_offset())
        kind = kind_of(torch.uint8)
        found = reduction_scratch(operand, _partial_bytes(op, x, out), device.resident_threads)
        yield from ((n, (n,), kind) for n in found)


def reads_a_copy(op: str, x: Tensor, wanted: torch.dtype, device: Device) -> bool:
    """Whether a sum first copies its operand to the type that it sums in."""
    in_kernel = device.casts_in_kernels and x.dtype.is_floating_point and wanted is torch.float32
    return op in _SUMS and x.dtype is not wanted and not in_kernel


def _partial_bytes(op: str, x: Tensor, out: Any) -> int:
    if op in ("max", "min"):
        return x.element_size() if isinstance(out, Tensor) else _PARTIAL["argmax"]
    if op in _PARTIAL:
        double = 2 if x.dtype is torch.float64 and op.startswith(("var", "std")) else 1
        return double * _PARTIAL[op] or x.element_size()
    first = out if isinstance(out, Tensor) else out[0]
    return max(4, first.element_size())


def _argument(func: Any, args: Any, kwargs: Any, name: str) -> Any:
    place = next((i for i, a in enumerate(func._schema.arguments) if a.name == name), None)
    if place is None:
        return None
    return args[place] if place < len(args) else kwargs.get(name)


def _dims(given: Any) -> tuple[int, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, int) else tuple(given)


def _normalised(args: Any) -> Iterator[Scratch]:
    """Draws without replacement divide by a random number per element."""
    replaces = len(args) > 2 and args[2] and args[1] != 1
    if not replaces:
        yield like(args[0])


def _partial_gradients(args: Any) -> Iterator[Scratch]:
    """Each thread's sums of the gradients of weight and bias, where either is wanted."""
    x, wanted = args[1], args[7]
    if wanted[1] or wanted[2]:
        columns = reduce(operator.mul, plain_dims(args[2]))
        shape, kind = (2, torch.get_num_threads(), columns), kind_of(x.dtype)
        yield 2 * torch.get_num_threads() * columns * kind.itemsize, shape, kind


def _places(args: Any) -> Iterator[Scratch]:
    """An int64 place for each element of the dimension that was unfolded."""
    sizes, dim = plain_dims(args[1]), args[2]
    yield sizes[dim] * 8, (sizes[dim],), kind_of(torch.int64)


_OTHERS: dict[str, Callable[[Any], Iterator[Scratch]]] = {
    "_scaled_dot_product_flash_attention_backward": scratch_of_flash_backward,
    "_scaled_dot_product_efficient_attention_backward": scratch_of_efficient_backward,
    "multinomial": _normalised,
    "unfold_backward": _places,
}

"""What a fake tensor's run does otherwise than a plain tensor's, and what kernels allocate inside: the one table.

Sources are PyTorch's: functions of FunctionsManual.cpp and input_buffer.cpp take another branch for tensor subclasses
(isTensorSubclassLike), which fake tensors are and a user's are not; kernels allocate temporaries that no operator
shows. `CORRECTIONS` says what is corrected and where it was read; docs/trace.md prints it.
"""

from collections.abc import Iterator
from functools import cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from memmodel.dims import Shape
from memmodel.dtypes import DType
from memmodel.recording.device import Device
from memmodel.recording.layout import is_dense
from memmodel.recording.reduce_scratch import reduce_scratch
from memmodel.tracer.attention import scratch_of_efficient_backward, scratch_of_flash_backward
from memmodel.tracer.fake import fake_mode, uncompiled
from memmodel.tracer.kinds import count, kind_of, plain_dims

aten = torch.ops.aten
Scratch = tuple[Any, Shape, DType]  # bytes, shape, element type


class Correction(NamedTuple):
    """One difference: what it is about, on which device, what happens there, and where that was read."""

    name: str
    device: str  # "cuda", "cpu" or "both"
    what: str
    source: str


CORRECTIONS = (
    Correction(
        "gradient accumulation",
        "both",
        "a gradient that nobody else holds is added to in place; fake tensors are added into a new one",
        "torch/csrc/autograd/input_buffer.cpp, accumulate",
    ),
    Correction(
        "backward of max, min, median, gather, indexing",
        "both",
        "scatters into its zeros in place; fake tensors into a copy of them",
        "torch/csrc/autograd/FunctionsManual.cpp, value_selecting_reduction_backward, index_backward",
    ),
    Correction(
        "mask of attention in plain operators",
        "both",
        "scaled_dot_product_attention adds the mask to its scores in place; fake tensors into a copy",
        "aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math",
    ),
    Correction(
        "softmax of strided input",
        "both",
        "softmax and its backward copy an operand that is not contiguous",
        "aten/src/ATen/native/SoftMax.cpp, cuda/SoftMax.cu",
    ),
    Correction(
        "_safe_softmax",
        "both",
        "compares its result with -inf (a bool per element) and reduces that by row",
        "aten/src/ATen/native/transformers/attention.cpp, _safe_softmax",
    ),
    Correction(
        "sums of integers and bools",
        "both",
        "are summed from an int64 copy",
        "aten/src/ATen/native/ReduceOpsUtils.h, make_reduction",
    ),
    Correction(
        "backward of softmax",
        "cuda",
        "materialises grad * output",
        "aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out",
    ),
    Correction(
        "matrix products of expanded operands",
        "cuda",
        "an operand without a unit stride is cloned",
        "aten/src/ATen/native/cuda/Blas.cpp, prepare_batch_matrix_for_cublas",
    ),
    Correction(
        "sums of everything",
        "cuda",
        "thread blocks leave partial sums and meet at a counter (an A100's; left out of formulas)",
        "aten/src/ATen/native/cuda/Reduce.cuh, setReduceConfig",
    ),
    Correction(
        "dropout",
        "cuda",
        "is native_dropout, which keeps a bool mask; the CPU keeps noise of the input's type",
        "aten/src/ATen/native/Dropout.cpp, is_fused_kernel_acceptable",
    ),
    Correction(
        "softmax(dtype=float32) of float16",
        "cuda",
        "converts in the kernel; the CPU, and bfloat16 on both, from a copy",
        "aten/src/ATen/native/SoftMax.cpp, softmax",
    ),
    Correction(
        "scaled_dot_product_attention",
        "cuda",
        "the kernel that CUDA would choose, with its log-sum-exp and scratch (docs/trace.md)",
        "aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, flash_attn/flash_api.cpp",
    ),
    Correction(
        "mixed element types",
        "cpu",
        "an elementwise operator copies operands of another type; CUDA converts them in registers",
        "aten/src/ATen/TensorIterator.cpp, compute_types",
    ),
)

_IN_PLACE = {  # the out-of-place form that fake tensors take in a formula, all on zeros that the formula just made
    aten.scatter.src,
    aten.scatter.value,
    aten.scatter_add.default,
    aten.index_put.default,
    aten._unsafe_index_put.default,
    aten.index_add.default,
    aten.masked_scatter.default,
}
_MATRIX = {
    aten.bmm.default: (0, 1),
    aten.mm.default: (0, 1),
    aten.baddbmm.default: (1, 2),
    aten.addmm.default: (1, 2),
}
_REDUCTIONS = {"sum", "mean", "amax", "amin", "max", "min", "prod", "any", "all"}


def in_place_result(func: Any, args: Any, node: Any, accumulates: bool, adds_in_place: bool) -> Any:
    """The tensor that a plain run would have written into; None where it makes a new one.

    `adds_in_place` says that attention in plain operators is under way, which adds its mask to its scores.
    """
    if accumulates and _sole_owner(args[0]):
        return args[0]
    if adds_in_place and node is None and func is aten.add.Tensor:
        return args[0]
    if node is not None and func in _IN_PLACE and not _is_python(node):
        return args[0]
    return None


def is_accumulation(func: Any, args: Any, kwargs: Any, node: Any, handed_over: set[int]) -> bool:
    """Whether an `add` is the engine's, summing gradients: its operands have just been checked as a node's results."""
    if func is not aten.add.Tensor or kwargs or len(args) != 2 or not isinstance(args[1], Tensor):
        return False
    return node is None or id(args[1]) in handed_over


def _is_python(node: Any) -> bool:
    return type(node).__module__ != "torch.autograd.functions" and hasattr(node, "saved_tensors")


def _sole_owner(tensor: Tensor) -> bool:
    """Whether the engine's buffer alone holds a dense tensor and its storage (can_accumulate_inplace)."""
    holders, sharers = use_counts_alone()
    storage = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    dense = is_dense(tuple(map(_number, tensor.shape)), tuple(map(_number, tensor.stride())))
    held: int = tensor._use_count()  # type: ignore[attr-defined]
    return dense and held <= holders and storage <= sharers


class _Counts(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Reads how many hold the first operand of an accumulation that is known to happen in place."""

    found: tuple[int, int] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.add.Tensor:
            x = args[0]
            storage = torch._C._storage_Use_Count(x.untyped_storage()._cdata)
            self.found = x._use_count(), storage
        return func(*args, **(kwargs or {}))


@cache
def use_counts_alone() -> tuple[int, int]:
    """The counts of a tensor and of its storage that nobody but the engine's buffer holds, seen from an operator.

    Read from PyTorch itself; to be called before anything is traced, as inside an operator there is no autograd.
    """
    alone = torch.utils._python_dispatch._disable_current_modes()
    with alone, torch.enable_grad(), uncompiled(FakeTensorMode, _Counts), fake_mode(), _Counts() as counts:  # type: ignore[no-untyped-call]
        x = torch.empty(2, requires_grad=True)
        middle = x * 2.0
        (middle * middle).backward(torch.empty(2))  # type: ignore[no-untyped-call]
    found: tuple[int, int] | None = counts.found
    assert found is not None
    return found


def scratch(func: Any, args: Any, kwargs: Any, out: Any, device: Device) -> Iterator[Scratch]:
    """What the operator's kernel allocates and frees inside, after its results."""
    op = func._schema.name.removeprefix("aten::")
    if op == "_softmax_backward_data":
        if device.softmax_backward_scratch or not _contiguous(args[0]):
            yield _like(args[0])
    elif op in ("_softmax", "_log_softmax") and not _contiguous(args[0]):
        yield _like(args[0])
    elif func in _MATRIX and device.gemm_packs_operands:
        yield from (_like(args[i]) for i in _MATRIX[func] if not _has_unit_stride(args[i]))
    elif op == "_scaled_dot_product_flash_attention_backward":
        yield from scratch_of_flash_backward(args)
    elif op == "_scaled_dot_product_efficient_attention_backward":
        yield from scratch_of_efficient_backward(args)
    elif op in _REDUCTIONS:
        yield from _of_reduction(op, args[0], out, device)


def casts(func: Any, args: Any, device: Device) -> Iterator[Scratch]:
    """Copies of operands in the common type, which an elementwise kernel of the CPU makes before its result."""
    op = func._schema.name.removeprefix("aten::")
    if device.casts_in_kernels or torch.Tag.pointwise not in func.tags:
        return
    if op in ("_to_copy", "copy_", "clone", "where", "masked_fill") or op.startswith("bitwise"):
        return
    given = [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.dim()]
    if given:
        common = reduce(torch.promote_types, (x.dtype for x in given))
        yield from (_like(x, common) for x in given if x.dtype is not common)


def _like(x: Tensor, dtype: torch.dtype | None = None) -> Scratch:
    kind = kind_of(dtype or x.dtype)
    return count(x) * kind.itemsize, plain_dims(x.shape), kind


def _contiguous(x: Tensor) -> bool:
    return bool(x.is_contiguous())


def _product(sizes: Shape) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * size
    return total


def _has_unit_stride(x: Tensor) -> bool:
    """Whether cuBLAS can read the matrix: one of the last two strides is 1 and the other spans the rows."""
    (rows, cols), (down, across) = x.shape[-2:], x.stride()[-2:]
    return _leading(across, down, cols) or _leading(down, across, rows)


def _leading(unit: Any, leading: Any, size: Any) -> bool:
    return _number(unit) == 1 and _number(leading) >= max(1, _number(size))


def _number(size: Any) -> int:
    """A size as a number, by its hint where it is symbolic: layouts do not depend on the sizes."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def _of_reduction(op: str, x: Tensor, out: Any, device: Device) -> Iterator[Scratch]:
    first = out if isinstance(out, Tensor) else out[0]
    if op in ("sum", "prod") and not x.dtype.is_floating_point and x.dtype is not first.dtype:
        yield _like(x, first.dtype)
    elements = count(x)
    whole = _number(first.numel()) == 1 and _number(x.numel()) > 1
    if whole and device.resident_threads and isinstance(elements, int) and _contiguous(x):
        kind = kind_of(torch.uint8)
        yield from ((int(n), (int(n),), kind) for n in reduce_scratch(elements, device.resident_threads))

"""What a fake tensor's run does otherwise than a plain tensor's, and the one table of all that is corrected.

Functions of FunctionsManual.cpp and input_buffer.cpp take another branch for tensor subclasses
(isTensorSubclassLike), which fake tensors are and a user's are not; that is put right here. What kernels allocate
inside, which no operator shows, is in `scratch.py` and `opaque.py`. `CORRECTIONS` says of each where it was read;
docs/trace.md prints it.
"""

import sys
from functools import cache
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from memmodel.recording.layout import is_dense
from memmodel.tracer.rules.kinds import number
from memmodel.tracer.watch.fake import fake_mode, uncompiled

aten = torch.ops.aten
_DISPATCH = ("memmodel.tracer.", "torch._compile", "torch._dynamo", "torch.utils._python_dispatch")


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
        "linear layer of input that is neither a matrix nor contiguous",
        "both",
        "adds its bias to the product in place; fake tensors into a copy",
        "aten/src/ATen/native/Linear.cpp, linear",
    ),
    Correction(
        "strides of gradients",
        "both",
        "backward of layer norm, log_softmax and losses is contiguous, that of elu, softplus and the like laid out as "
        "its operands; fake tensors' otherwise, so that a leaf's gradient would be copied or not",
        "aten/src/ATen/native/layer_norm.cpp, Loss.cpp, TensorIterator.cpp, reorder_dimensions",
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
        "layer norm of strided input",
        "both",
        "layer norm and its backward first copy an operand that is not contiguous",
        "aten/src/ATen/native/layer_norm.cpp, cuda/layer_norm_kernel.cu",
    ),
    Correction(
        "sums in another type",
        "both",
        "integers and bools are summed from an int64 copy; floats too, but for half precision in fp32 on CUDA",
        "aten/src/ATen/native/ReduceOpsUtils.h, make_reduction",
    ),
    Correction(
        "cumulative sums in another type",
        "both",
        "are taken from a copy in that type",
        "aten/src/ATen/native/ReduceOps.cpp, impl_func_cum_ops",
    ),
    Correction(
        "mse_loss, smooth_l1_loss",
        "both",
        "reduce a loss per element; the result was made for every element before it shrank, and keeps that memory",
        "aten/src/ATen/native/Loss.cpp, TORCH_META_FUNC(mse_loss), TORCH_IMPL_FUNC(mse_loss_out)",
    ),
    Correction(
        "huber_loss, binary_cross_entropy",
        "both",
        "reduce a loss per element; binary_cross_entropy's result keeps its memory",
        "aten/src/ATen/native/Loss.cpp, huber_loss; cuda/Loss.cu, binary_cross_entropy_out_cuda",
    ),
    Correction(
        "logsumexp, roll, binary_cross_entropy_with_logits",
        "both",
        "are several operators, written out",
        "aten/src/ATen/native/ReduceOps.cpp, TensorTransformations.cpp, Loss.cpp",
    ),
    Correction(
        "one_hot",
        "both",
        "scatters ones into zeros; fake tensors compare with a range",
        "aten/src/ATen/native/Onehot.cpp, one_hot",
    ),
    Correction(
        "losses of classes in more dimensions than two",
        "both",
        "make the sum of weights before the loss, and contiguous copies of what they reduce",
        "aten/src/ATen/native/LossNLL2d.cpp, cuda/NLLLoss2d.cu",
    ),
    Correction(
        "multinomial",
        "both",
        "without replacement, or for one draw, divides by a random number per element",
        "aten/src/ATen/native/Distributions.cpp, multinomial_out",
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
        "reductions of many elements to few",
        "cuda",
        "thread blocks leave partial results and meet at counters; down columns (a bias's gradient) they reserve a "
        "block's width per output (left out of formulas)",
        "aten/src/ATen/native/cuda/Reduce.cuh, setReduceConfig, global_memory_size",
    ),
    Correction(
        "backward of embedding",
        "cuda",
        "beyond 3,072 indices: sorts them with their places, then sums in parts of 10 rows in fp32",
        "aten/src/ATen/native/cuda/Embedding.cu, EmbeddingBackwardKernel.cu",
    ),
    Correction(
        "backward of indexing, index_put that accumulates",
        "cuda",
        "sorts the indices with their places",
        "aten/src/ATen/native/cuda/Indexing.cu, index_put_with_sort_kernel",
    ),
    Correction(
        "masked_scatter",
        "cuda",
        "counts the mask's elements in int64",
        "aten/src/ATen/native/cuda/IndexKernel.cpp, masked_scatter_cuda_",
    ),
    Correction(
        "logsigmoid",
        "cuda",
        "keeps no buffer for backward; the CPU keeps one of the input's size",
        "aten/src/ATen/native/cuda/ActivationLogSigmoidKernel.cu",
    ),
    Correction(
        "dropout",
        "cuda",
        "is native_dropout, which keeps a bool mask; the CPU keeps noise of the input's type",
        "aten/src/ATen/native/Dropout.cpp, is_fused_kernel_acceptable",
    ),
    Correction(
        "rms_norm",
        "cuda",
        "from torch 2.9 on is one kernel, which keeps its input and a number per row; the CPU takes plain operators",
        "aten/src/ATen/native/layer_norm.cpp, rms_norm_symint; cuda/layer_norm_kernel.cu",
    ),
    Correction(
        "softmax and log_softmax(dtype=float32) of float16",
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
        "backward of layer norm",
        "cpu",
        "sums the gradients of weight and bias in a buffer per thread",
        "aten/src/ATen/native/cpu/layer_norm_kernel.cpp, LayerNormBackwardKernelImplInternal",
    ),
    Correction(
        "backward of embedding",
        "cpu",
        "copies a gradient that is not contiguous (as CUDA does)",
        "aten/src/ATen/native/Embedding.cpp, embedding_dense_backward_cpu",
    ),
    Correction(
        "mixed element types",
        "cpu",
        "an elementwise operator copies operands of another type than it computes in, such as integers that it "
        "divides; CUDA converts them in registers",
        "aten/src/ATen/TensorIterator.cpp, compute_types",
    ),
)

_IN_PLACE = {  # the out-of-place form that fake tensors take in a formula, all on zeros that the formula just made
    aten.scatter.src,
    aten.scatter_add.default,
    aten.index_put.default,
    aten._unsafe_index_put.default,
    aten.index_add.default,
    aten.masked_scatter.default,
}
_IF_ADDED = {aten.index_put.default, aten._unsafe_index_put.default}  # else the gradient of an index_put: a copy


def in_place_result(func: Any, args: Any, node: Any, accumulates: bool, adds_in_place: bool, own: bool) -> Any:
    """The tensor that a plain run would have written into; None where it makes a new one.

    `adds_in_place` says that attention in plain operators or a linear layer is under way, which adds its mask or bias;
    `own` that the first operand was made by the node's formula itself.
    """
    if accumulates and _sole_owner(args[0]):
        return args[0]
    if adds_in_place and func is aten.add.Tensor:
        return args[0]
    if node is None or _is_python(node):
        return None
    name = str(node.name())
    if func in _IN_PLACE and _adds(func, args) and not name.startswith("ScatterReduceBackward"):
        return args[0]
    if own and func in (aten.sub.Tensor, aten.mul.Tensor) and name.startswith("BinaryCrossEntropyWithLogitsBackward"):
        return args[0]
    return None


def _adds(func: Any, args: Any) -> bool:
    return func not in _IF_ADDED or (len(args) > 3 and bool(args[3]))


_CONTIGUOUS = {
    aten.native_layer_norm.default,
    aten.native_layer_norm_backward.default,
    aten._log_softmax_backward_data.default,
    aten.mse_loss_backward.default,
    aten.smooth_l1_loss_backward.default,
    aten.huber_loss_backward.default,
}
_AS_OPERANDS = {  # the first operand that is not expanded leads, as in any elementwise kernel
    aten.elu_backward.default,
    aten.hardtanh_backward.default,
    aten.softplus_backward.default,
    aten.hardswish_backward.default,
    aten.logit_backward.default,
}


def laid_out(func: Any, args: Any, out: Any) -> Any:
    """The results with the strides that the kernel gives them, where fake tensors' are others."""
    if func in _AS_OPERANDS:
        first, second, *_ = (x for x in args if isinstance(x, Tensor))
        return aten.add.Tensor(first, second)
    if func not in _CONTIGUOUS:
        return out
    return tree_map_only(Tensor, lambda x: x if x.is_contiguous() else x.new_empty(x.shape), out)


def is_accumulation(func: Any, args: Any, kwargs: Any, node: Any, handed_over: set[int]) -> bool:
    """Whether an `add` is the engine's, summing gradients: its operands have just been checked as a node's results.

    Nor may a node in Python, such as a checkpoint that runs its function again, stand between.
    """
    if func is not aten.add.Tensor or kwargs or len(args) != 2 or not isinstance(args[1], Tensor):
        return False
    return (node is None or id(args[1]) in handed_over) and _engine_calls()


def _engine_calls() -> bool:
    """Whether the innermost frame outside of dispatch is the one that called autograd's engine."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_DISPATCH):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "_engine_run_backward"


def _is_python(node: Any) -> bool:
    return type(node).__module__ != "torch.autograd.functions" and hasattr(node, "saved_tensors")


def _sole_owner(tensor: Tensor) -> bool:
    """Whether the engine's buffer alone holds a dense tensor and its storage (can_accumulate_inplace)."""
    holders, sharers = use_counts_alone()
    storage = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    dense = is_dense(tuple(map(number, tensor.shape)), tuple(map(number, tensor.stride())))
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

"""The one table of all that a trace corrects, with where it was read; docs/trace.md prints it."""

from typing import NamedTuple


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
        "views that are written into",
        "both",
        "their gradient is copied into zeros of the base's size, and read as the base; fake tensors repeat the views",
        "torch/csrc/autograd/variable.cpp, VariableHooks::grad_fn; FunctionsManual.cpp, as_strided_backward",
    ),
    Correction(
        "backward of binary_cross_entropy_with_logits",
        "both",
        "computes in place on what it made first; fake tensors into new ones",
        "torch/csrc/autograd/FunctionsManual.cpp, binary_cross_entropy_with_logits_backward",
    ),
    Correction(
        "backward of masked_scatter",
        "both",
        "counts the mask in int64; makes what it picks and zeros for the rest before both in one",
        "aten/src/ATen/native/TensorAdvancedIndexing.cpp, masked_scatter_backward_symint",
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
        "huber_loss, binary_cross_entropy, soft_margin_loss",
        "both",
        "reduce a loss per element; the result of the last two keeps its memory",
        "aten/src/ATen/native/Loss.cpp, huber_loss, soft_margin_loss_out; cuda/Loss.cu, binary_cross_entropy_out_cuda",
    ),
    Correction(
        "logsumexp, roll, binary_cross_entropy_with_logits, cdist of more than 25 rows, backward of soft_margin_loss",
        "both",
        "are several operators, written out",
        "aten/src/ATen/native/ReduceOps.cpp, TensorTransformations.cpp, Loss.cpp, Distance.cpp",
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
        'torch.autocast("cuda")',
        "cuda",
        "casts by its own lists and keeps casts of weights until the region ends; the CPU's lists are others",
        "aten/src/ATen/autocast_mode.h, autocast_mode.cpp, cached_cast",
    ),
    Correction(
        "optimizers, clip_grad_norm_",
        "cuda",
        "run on lists of tensors unless asked otherwise; the CPU takes one parameter after the other",
        "torch/optim/optimizer.py, _default_to_fused_or_foreach; torch/nn/utils/clip_grad.py",
    ),
    Correction(
        "backward of layer norm",
        "cpu",
        "sums the gradients of weight and bias in a buffer per thread",
        "aten/src/ATen/native/cpu/layer_norm_kernel.cpp, LayerNormBackwardKernelImplInternal",
    ),
    Correction(
        "backward of embedding, logsigmoid, pixel_shuffle",
        "cpu",
        "copy an operand that is not contiguous (of the gradient of embedding, CUDA too)",
        "aten/src/ATen/native/Embedding.cpp, embedding_dense_backward_cpu; Activation.cpp; PixelShuffle.cpp",
    ),
    Correction(
        "mixed element types",
        "cpu",
        "an elementwise operator copies operands of another type than it computes in, such as integers that it "
        "divides; CUDA converts them in registers",
        "aten/src/ATen/TensorIterator.cpp, compute_types",
    ),
)

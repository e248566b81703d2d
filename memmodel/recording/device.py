"""Where the CUDA and the CPU kernels of PyTorch differ in what they allocate: the one list.

Everything else about memory is the same C++ code on both, so a recording on `CPU` can be held, event by event, to the
CPU profiler of a real PyTorch, and a recording on `CUDA` differs from it only by what stands here.
"""

from typing import NamedTuple


class Device(NamedTuple):
    """Allocation habits of a device's kernels.

    Attributes:
        name: "cuda" or "cpu".
        softmax_backward_scratch: softmax's backward materialises grad * output (aten/src/ATen/native/cuda/SoftMax.cu).
        gemm_packs_operands: a matrix product clones an operand with no unit stride in its last two dimensions, such as
            the expanded gradient of a sum (aten/src/ATen/native/cuda/Blas.cpp, prepare_batch_matrix_for_cublas).
        fused_dropout: dropout keeps a bool mask (native_dropout); otherwise noise of the input's dtype.
        casts_in_kernels: elementwise kernels convert mixed dtypes in registers; otherwise operands are copied first
            (TensorIterator with cast_common_dtype_to_outputs and promote_inputs_to_common_dtype).
        softmax_reads_half: softmax(dtype=float32) of a float16 input converts on the fly (half_to_float).
        streams_gemm: matrix products run through cuBLAS, with its workspace.
        resident_threads: SMs times threads per SM: it bounds the thread blocks that share one sum (Reduce.cuh).
            An A100's; other GPUs differ by a few KiB while a sum runs. 0: sums take no scratch.
    """

    name: str
    softmax_backward_scratch: bool
    gemm_packs_operands: bool
    fused_dropout: bool
    casts_in_kernels: bool
    softmax_reads_half: bool
    streams_gemm: bool
    resident_threads: int


CUDA = Device("cuda", True, True, True, True, True, True, resident_threads=108 * 2048)
CPU = Device("cpu", False, False, False, False, False, False, resident_threads=0)

"""The differences between PyTorch's CUDA and CPU kernels in what they allocate.

The rest of PyTorch's memory use is the same C++ code on both. Tests compare recordings on `CPU`, event by event, with
the CPU profiler of a real PyTorch; recordings on `CUDA` differ only in the fields here.
"""

from typing import NamedTuple

# Resident threads of a multiprocessor by compute capability, where not 2048 (CUDA C++ Programming Guide, "Technical
# Specifications per Compute Capability").
_THREADS_PER_SM = {75: 1024, 86: 1536, 87: 1536, 89: 1536, 120: 1536, 121: 1536}


class Device(NamedTuple):
    """The allocations of a device's kernels.

    Attributes:
        name: "cuda" or "cpu".
        softmax_backward_scratch: softmax's backward materialises grad * output (aten/src/ATen/native/cuda/SoftMax.cu).
        gemm_packs_operands: a matrix product clones an operand with no unit stride in its last two dimensions, such as
            the expanded gradient of a sum (aten/src/ATen/native/cuda/Blas.cpp, prepare_batch_matrix_for_cublas).
        fused_dropout: dropout saves a bool mask (native_dropout); otherwise noise of the input's dtype.
        casts_in_kernels: elementwise kernels convert mixed dtypes in registers; otherwise operands are copied first
            (TensorIterator with cast_common_dtype_to_outputs and promote_inputs_to_common_dtype).
        softmax_reads_half: softmax(dtype=float32) of a float16 input converts on the fly (half_to_float).
        fused_rms_norm: rms_norm is one kernel (torch 2.9 and later); otherwise plain operators in fp32.
        streams_gemm: matrix products run through cuBLAS, with its workspace.
        sms: streaming multiprocessors, an A100's by default; 0 on the CPU.
        arch: compute capability as one number (80 is 8.0), a key of the tile table.
        capability: the compute capability itself.
        threads: of the CPU; each sums into its own buffer.
        torch: version of PyTorch, where it decides which kernels run.
        deterministic: whether deterministic algorithms are required (torch.use_deterministic_algorithms).
        gfx: AMD's name of the architecture ("gfx942"), where PyTorch is the one for AMD; else "".
    """

    name: str
    softmax_backward_scratch: bool
    gemm_packs_operands: bool
    fused_dropout: bool
    casts_in_kernels: bool
    softmax_reads_half: bool
    fused_rms_norm: bool
    streams_gemm: bool
    sms: int
    arch: int = 80
    capability: int = 80
    threads: int = 1
    deterministic: bool = False
    torch: tuple[int, int] = (2, 13)
    gfx: str = ""

    @property
    def resident_threads(self) -> int:
        """Threads at once: they bound the thread blocks that share a reduction (Reduce.cuh); 0: no scratch for it."""
        return self.sms * threads_per_sm(self.capability)


CUDA = Device("cuda", True, True, True, True, True, True, True, sms=108)
CPU = Device("cpu", False, False, False, False, False, False, False, sms=0)


def threads_per_sm(arch: int) -> int:
    """Resident threads of an SM of this compute capability (80 is 8.0)."""
    return _THREADS_PER_SM.get(arch, 2048)

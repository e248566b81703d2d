"""One attention call, checked: sizes, band, scale and arithmetic. Every complaint is made here, before a launch."""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from memmodel.errors import UsageError, unknown

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PRECISIONS = ("ieee", "tf32", "tf32x3")
MAX_HEAD_DIM = 256
MAX_BLOCK = 256
INT32 = 2**31
# What the kernels are is settled when they are imported, so this is too.
INTERPRETED = bool(triton.knobs.runtime.interpret)


@dataclass(frozen=True, slots=True)
class Problem:
    """Attention of q (b, h, n, d) on k, v (b, g, m, d).

    Query i sees the keys i + first <= j <= i + last; a bound that excludes nothing is None. `precision` is how
    fp32 is multiplied, None as torch.matmul would.
    """

    b: int
    h: int
    g: int
    n: int
    m: int
    d: int
    first: int | None
    last: int | None
    scale: float
    precision: str | None

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.h // self.g

    @property
    def block_d(self) -> int:
        """Head dim of a block: a power of two, at least the 16 of a matrix instruction."""
        return max(16, 1 << (self.d - 1).bit_length())

    @property
    def scale_log2(self) -> float:
        """Scale for exp2. A scale of 0 (uniform weights) is a tiny one here: -inf * 0 would be NaN."""
        return (self.scale or 1e-30) * math.log2(math.e)


def band(n: int, m: int, causal: bool, window: int | None) -> tuple[int | None, int | None]:
    """(first, last) of the band, aligned at the bottom right: query n - 1 stands at key m - 1.

    A window of w shows each query its own position and the w - 1 before it, and as many after it unless causal.
    Bounds that exclude no pair are dropped, so that a decode step is compiled without a mask.
    """
    shift = m - n
    last = shift if causal else None
    first = None
    if window is not None:
        first = shift - (window - 1)
        last = shift if causal else shift + (window - 1)
    if first is not None and n - 1 + first <= 0:
        first = None
    if last is not None and last >= m - 1:
        last = None
    return first, last


def checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    scale: float | None,
    precision: str | None,
) -> Problem:
    """Describe the call; raises UsageError that says what was given and what is supported."""
    _check_shapes(q, k, v)
    _check_kinds(q, k, v)
    if window is not None and window < 1:
        raise UsageError(f"window={window}: a window holds at least 1 key; None means no window")
    if scale is not None and not math.isfinite(scale):
        raise UsageError(f"scale={scale}: it must be a finite number; None means 1 / sqrt(head dim)")
    if precision is not None and precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    b, h, n, d = q.shape
    _, g, m, _ = k.shape
    first, last = band(n, m, causal, window)
    return Problem(b, h, g, n, m, d, first, last, d**-0.5 if scale is None else scale, precision)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise UsageError(f"q, k and v need 4 dimensions (batch, heads, length, head dim): given {shapes}")
    if k.shape != v.shape:
        raise UsageError(f"k and v must have one shape: given {shapes}")
    if q.shape[0] != k.shape[0]:
        raise UsageError(f"q, k and v must have one batch size: given {shapes}")
    if q.shape[3] != k.shape[3]:
        raise UsageError(f"q, k and v must have one head dim: given {shapes}")
    if not 1 <= q.shape[3] <= MAX_HEAD_DIM:
        raise UsageError(f"head dim {q.shape[3]} is not supported: 1 to {MAX_HEAD_DIM} are")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise UsageError(f"query heads must be a multiple of key/value heads: given {q.shape[1]} and {k.shape[1]}")


def _check_kinds(q: Tensor, k: Tensor, v: Tensor) -> None:
    if not q.device == k.device == v.device:
        raise UsageError(f"q, k and v must be on one device: given {q.device}, {k.device} and {v.device}")
    if not q.dtype == k.dtype == v.dtype:
        raise UsageError(f"q, k and v must have one dtype: given {q.dtype}, {k.dtype} and {v.dtype}")
    if q.dtype not in DTYPES:
        raise UsageError(f"{q.dtype} is not supported: float16, bfloat16 and float32 are")
    if q.device.type == "cuda":
        return
    if q.device.type != "cpu":
        raise UsageError(f"tensors on {q.device} are not supported: the kernels run on CUDA devices")
    if not INTERPRETED:
        raise UsageError(
            "the tensors are on the CPU: move them to a CUDA device, or set TRITON_INTERPRET=1 before Triton is "
            "imported to run the kernels in its interpreter"
        )
    if q.dtype == torch.bfloat16:
        raise UsageError("Triton's interpreter computes bfloat16 wrongly: use float16 or float32 on the CPU")


def check_strides(**tensors: Tensor) -> None:
    """Refuse strides at which 32-bit offsets inside one block could overflow."""
    for name, x in tensors.items():
        if MAX_BLOCK * (abs(x.stride(2)) + abs(x.stride(3))) >= INT32:
            raise UsageError(
                f"{name} has strides {x.stride()}: rows and columns may be at most {INT32 // MAX_BLOCK} elements apart"
            )

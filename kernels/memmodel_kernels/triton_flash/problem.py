"""One attention call, checked: sizes, band, scale and arithmetic. Every complaint is made here, before a launch."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from memmodel.attention import tiles
from memmodel.base.dtypes import DType
from memmodel.base.dtypes import dtype as named
from memmodel.base.errors import UsageError, unknown
from memmodel_kernels.flash import check_options
from memmodel_kernels.triton_flash.blocks import Band

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PRECISIONS = ("ieee", "tf32", "tf32x3")
MAX_BLOCK = 256
INT32 = 2**31
MAX_STEPS = 2**20  # of one key block's loop, over 16 queries or more of a head at each: `schedule.quotient`
# What the kernels are is settled when they are imported, so this is too.
INTERPRETED = bool(triton.knobs.runtime.interpret)


@dataclass(frozen=True, slots=True)
class Problem:
    """Attention of q (b, h, n, d) on k, v (b, g, m, d), all of one dtype on one device.

    Query i sees the keys i + first <= j <= i + last; a bound that excludes nothing is None. `precision` is how fp32 is
    multiplied: "ieee", "tf32" or "tf32x3". `deterministic` says that gradients must repeat bit for bit. A `softcap` c
    makes scores c tanh(scale S / c). `packed`: b sequences behind one another in a batch of one, n and m the longest
    lengths, the bounds as if each had as many queries as keys. `dropout`: the probability that a weight is dropped.
    `biased`: whether numbers are added to the scores.
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
    precision: str
    dtype: DType
    device: torch.device
    deterministic: bool = True
    softcap: float | None = None
    packed: bool = False
    dropout: float = 0.0
    biased: bool = False

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.h // self.g

    @property
    def band(self) -> Band:
        """Which keys a query sees."""
        return Band(self.n, self.m, self.first, self.last)

    @property
    def mirror(self) -> Band:
        """The band seen from the keys: key j is met by the queries j - last .. j - first."""
        first, last = (None if bound is None else -bound for bound in (self.last, self.first))
        return Band(self.m, self.n, first, last)


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
    scale: float | None = None,
    precision: str | None = None,
    deterministic: bool = True,
    softcap: float | None = None,
    lengths: tuple[int, int, int] | None = None,
    dropout: float = 0.0,
    biased: bool = False,
) -> Problem:
    """Describe the call; raises UsageError that says what was given and what is supported.

    `lengths`: of packed sequences their number, and the most queries and keys of one.
    """
    how = precision or default_precision()
    return _remembered(_facts(q, k, v), causal, window, scale, how, deterministic, softcap, lengths, dropout, biased)


def described(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    scale: float | None,
    precision: str | None,
    deterministic: bool,
    softcap: float | None = None,
    lengths: tuple[int, int, int] | None = None,
    dropout: float = 0.0,
    biased: bool = False,
) -> Problem:
    """Describe the call as `checked` does, also where sizes are symbols, which cannot be remembered."""
    how = precision or default_precision()
    return _described(_facts(q, k, v), causal, window, scale, how, deterministic, softcap, lengths, dropout, biased)


def _facts(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, q.device, k.device, v.device


def default_precision() -> str:
    """The precision that torch.matmul would use now: fp32 is multiplied exactly unless the user has allowed TF32."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _described(
    facts: tuple[Any, ...],
    causal: bool,
    window: int | None,
    scale: float | None,
    precision: str,
    deterministic: bool,
    softcap: float | None,
    lengths: tuple[int, int, int] | None,
    dropout: float,
    biased: bool,
) -> Problem:
    check_options(causal, window, scale, softcap, deterministic, dropout)
    q, k, _, dtype, _, _, device, _, _ = facts
    _check_shapes(*facts[:3])
    _check_devices(*facts[6:])
    _check_dtypes(*facts[3:6])
    _check_support(dtype, device)
    if window is not None and window < 1:
        raise UsageError(f"window={window}: a window holds at least 1 key; None means no window")
    if scale is not None and not math.isfinite(scale):
        raise UsageError(f"scale={scale}: it must be a finite number; None means 1 / sqrt(head dim)")
    if softcap is not None and not 0 < softcap < math.inf:
        raise UsageError(f"softcap={softcap}: it must be a positive number, such as 50; None means no cap")
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout={dropout}: it must be a probability from 0 to below 1, such as 0.1")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    (b, h, n, d), (_, g, m, _) = q, k
    scale = d**-0.5 if scale is None else scale
    bounds, kind = band(n, m, causal, window), named(str(dtype))
    if lengths is not None:
        b, n, m = lengths
        bounds = None if window is None else 1 - window, 0 if causal else None if window is None else window - 1
    packed = lengths is not None
    return Problem(
        b, h, g, n, m, d, *bounds, scale, precision, kind, device, deterministic, softcap, packed, dropout, biased
    )  # fmt: skip


# A model calls with few shapes, many times. By type too: a window of 1 is no window=True.
_remembered = functools.lru_cache(maxsize=1024, typed=True)(_described)


def _check_shapes(q: Any, k: Any, v: Any) -> None:
    shapes = f"q {tuple(q)}, k {tuple(k)}, v {tuple(v)}"
    if not len(q) == len(k) == len(v) == 4:
        raise UsageError(f"q, k and v need 4 dimensions (batch, heads, length, head dim): given {shapes}")
    if k != v:
        raise UsageError(f"k and v must have one shape: given {shapes}")
    if q[0] != k[0]:
        raise UsageError(f"q, k and v must have one batch size: given {shapes}")
    if q[3] != k[3]:
        raise UsageError(f"q, k and v must have one head dim: given {shapes}")
    tiles.padded(q[3])
    if k[1] == 0 or q[1] % k[1]:
        raise UsageError(f"query heads must be a multiple of key/value heads: given {q[1]} and {k[1]}")
    queries = q[1] // k[1] * q[2]
    if isinstance(queries, int) and queries > 16 * MAX_STEPS:
        raise UsageError(f"{queries} queries meet one key head: at most {16 * MAX_STEPS} may, of its group together")


def check_sequences(longest: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, q: Tensor) -> int:
    """The number of packed sequences, from their offsets; their values are not read, which would wait for the GPU."""
    for name, x in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if not isinstance(x, Tensor) or x.dtype != torch.int32 or x.dim() != 1 or x.stride(0) != 1:
            raise UsageError(f"{name} must be a contiguous int32 tensor (sequences + 1,): given {_shown(x)}")
        if x.device != q.device:
            raise UsageError(f"{name} must be where q is, on {q.device}: given {x.device}")
    if cu_seqlens_q.shape != cu_seqlens_k.shape or len(cu_seqlens_q) < 2:
        given = f"{len(cu_seqlens_q)} and {len(cu_seqlens_k)}"
        raise UsageError(f"cu_seqlens_q and cu_seqlens_k hold one offset more than there are sequences: given {given}")
    for name, length in zip(("max_seqlen_q", "max_seqlen_k"), longest, strict=True):
        if isinstance(length, bool | float | str) or length < 1:
            raise UsageError(f"{name}={length!r}: the length of the longest sequence, at least 1")
    return len(cu_seqlens_q) - 1


def check_seed(dropout: float, seed: Any, q: Tensor) -> None:
    """Refuse dropout without the seed that its random numbers are of."""
    if dropout and not (isinstance(seed, Tensor) and seed.dtype == torch.int64 and seed.device == q.device):
        raise UsageError(f"dropout={dropout} needs a seed, an int64 tensor (1,) on {q.device}: given {_shown(seed)}")


def check_bias(bias: Any, q: Tensor, k: Tensor) -> None:
    """Refuse a bias that does not broadcast to the scores."""
    _check_shapes(q.shape, k.shape, k.shape)
    if not isinstance(bias, Tensor) or bias.dtype not in DTYPES:
        raise UsageError(
            f"bias: numbers that are added to the scores, in float16, bfloat16 or float32, -inf where a pair does not "
            f"count: given {_shown(bias)}"
        )
    wanted = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
    fits = zip(bias.shape[::-1], wanted[::-1], strict=False)
    if not 2 <= bias.dim() <= 4 or any(size not in (1, full) for size, full in fits):
        raise UsageError(f"bias {tuple(bias.shape)}: it must broadcast to the scores {wanted}")
    if bias.device != q.device:
        raise UsageError(f"the bias must be where q is, on {q.device}: given {bias.device}")


def _shown(x: Any) -> str:
    return f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)


def _check_devices(q: torch.device, k: torch.device, v: torch.device) -> None:
    if not q == k == v:
        raise UsageError(f"q, k and v must be on one device: given {q}, {k} and {v}")


def _check_dtypes(q: torch.dtype, k: torch.dtype, v: torch.dtype) -> None:
    if not q == k == v:
        raise UsageError(f"q, k and v must have one dtype: given {q}, {k} and {v}")
    if q not in DTYPES:
        raise UsageError(f"{q} is not supported: float16, bfloat16 and float32 are")


def _check_support(dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cuda":
        return
    if device.type != "cpu":
        raise UsageError(f"tensors on {device} are not supported: the kernels run on CUDA devices")
    if not INTERPRETED:
        raise UsageError(
            "the tensors are on the CPU: move them to a CUDA device, or set TRITON_INTERPRET=1 before Triton is "
            "imported to run the kernels in its interpreter"
        )
    if dtype == torch.bfloat16:
        raise UsageError("Triton's interpreter computes bfloat16 wrongly: use float16 or float32 on the CPU")


def check_strides(**tensors: Tensor) -> None:
    """Refuse strides at which 32-bit offsets inside one block could overflow."""
    for name, x in tensors.items():
        if MAX_BLOCK * (abs(x.stride(2)) + abs(x.stride(3))) >= INT32:
            raise UsageError(
                f"{name} has strides {x.stride()}: rows and columns may be at most {INT32 // MAX_BLOCK} elements apart"
            )

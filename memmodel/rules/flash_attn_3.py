"""The flash-attn package, version 3, for Hopper, on recording tensors: `flash_attn_func` as it runs.

Tensors are (batch, length, heads, head dim). Keys are not split: num_splits is 1 by default. Sources:
Dao-AILab/flash-attention at 0251105, hopper/flash_attn_interface.py (FlashAttnFunc), hopper/flash_api.cpp (mha_fwd,
mha_bwd).
"""

from typing import Any

from memmodel.attention.masks import Mask
from memmodel.base.dtypes import FP8, bfloat16, float8_e4m3fn, float16, float32, int32, short_name
from memmodel.base.errors import UsageError
from memmodel.rules.dispatch import aten, several
from memmodel.rules.flash_attn import mask_of
from memmodel.rules.flash_buffers import rounded, seen
from memmodel.rules.operator import RESULTS, Call, Scratch, Spec, Steps, kernel, makes, rule, zeroed
from memmodel.sizes.dims import Dim, ceil_div, hint, same
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor

_FORWARD, _BACKWARD = "flash_attn_3_forward", "flash_attn_3_backward"
_WIDTHS = (64, 96, 128, 192, 256)  # head dims that kernels are compiled for


@makes(_FORWARD)
def _made(q: Any, k: Any, v: Any, **_: Any) -> list[Spec]:
    """The output, row-major and bf16 of operands in fp8, and its log-sum-exp."""
    b, n, h, _d = q.shape
    return [Spec((b, n, h, v.shape[-1]), bfloat16 if q.dtype in FP8 else q.dtype), Spec((b, h, n), float32)]


@rule(_FORWARD)
def forward(call: Call) -> Steps:
    """One kernel; under a mask its tiles are handed out by a counter, beside numbers of each batch."""
    yield RESULTS
    q, k, v = call.args[:3]
    mask = call.named["mask"]
    if _masks(mask, q):
        # int32 vectors over the batch: head_swizzle under any mask, varlen_sort_batches unless it is a window.
        vectors = 1 if mask.window is not None else 2
        count = 1 + vectors * rounded(q.shape[0], 4)
        yield from zeroed((count,), int32, "tile counter")
    pairs = _pairs(q, k, mask)
    matmul = 2 * pairs * (q.shape[-1] + v.shape[-1])
    reads = seen(call.tensors(), k, v, mask, q.shape[1])
    yield kernel("flash_attention", reads, call.results, q.dtype, matmul=matmul, exp=pairs, kind="fused")


def _masks(mask: Mask, q: Strided) -> bool:
    """Whether the kernel masks: a causal mask of one query hides nothing."""
    return mask.causal and not (mask.window is None and same(q.shape[1], 1))


def _pairs(q: Strided, k: Strided, mask: Mask) -> Dim:
    b, n, h, _ = q.shape
    return b * h * mask.pairs(n, k.shape[1])


def width_of(head_dim: int) -> int:
    """The head dim that the kernel is compiled for."""
    return next(width for width in _WIDTHS if head_dim <= width)


def tile_of(width: int, mask: Mask, capped: bool) -> tuple[int, int]:
    """Queries and keys of a tile of the backward on sm_90 (flash_api.cpp, mha_bwd: kBlockM, kBlockN)."""
    narrow = 96 if capped and mask.causal and mask.window is None else 128
    rows = {64: narrow, 128: 64 if mask.causal or capped else 80}.get(width, 64)
    return rows, 128 if width <= 128 else 96 if width <= 192 else 80


@makes(_BACKWARD)
def _dots(grad: Any, q: Any, k: Any, v: Any, *_: Any, **named: Any) -> Spec:
    b, n, h, d = q.shape
    rows, _keys = tile_of(width_of(max(hint(d), hint(v.shape[-1]))), named["mask"], named["capped"])
    return Spec((b, h, rounded(n, rows)), float32)


@rule(_BACKWARD)
def backward(call: Call) -> Steps:
    """dQ, dK and dV into tensors that are there already; returns the row dots, which nobody keeps.

    dQ is added up in fp32, and with shared heads dK and dV too, from zeros.
    """
    q, k, v = call.args[1:4]
    mask, deterministic = call.named["mask"], call.named["deterministic"]
    b, n, h, d = q.shape
    m, g = k.shape[1:3]
    width = width_of(max(hint(d), hint(v.shape[-1])))
    rows, keys = tile_of(width, mask, call.named["capped"])
    yield RESULTS
    yield Scratch((b, h, rounded(n, rows)), float32, "log-sum-exp in base 2")
    yield Scratch((b, h, rounded(n, rows) * width), float32, "sums of dQ")
    if not same(h, g):
        for name in ("dK", "dV"):
            yield from zeroed((b, g, rounded(m, keys) * width), float32, f"sums of {name}")
    yield Scratch((ceil_div(n, rows), b, h), int32, "counters of dQ")
    if not same(h, g) and deterministic:
        for name in ("dK", "dV"):
            yield from zeroed((ceil_div(m, keys), b, g), float32, f"counters of {name}")
    pairs = _pairs(q, k, mask)
    yield kernel(
        "flash_attention_backward", seen(call.args[:6], k, v, mask, n), call.args[6:9], q.dtype,
        matmul=2 * pairs * (3 * d + 2 * v.shape[-1]), exp=pairs, kind="fused", gradient=True,
    )  # fmt: skip


class FlashAttn3(Op):
    """FlashAttnFunc; keeps its operands, its output and the log-sum-exp."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, deterministic: bool, capped: bool) -> Tensor:
        """One operator."""
        self.options: dict[str, Any] = {"mask": mask, "deterministic": deterministic, "capped": capped}
        out, lse = several(_FORWARD, q, k, v, label=("output", "log-sum-exp"), mask=mask)
        self.save(q=q, k=k, v=v, out=out, lse=lse)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """One operator, which writes into gradients made before it."""
        q, k, v, out, lse = (self.unpack(name) for name in ("q", "k", "v", "out", "lse"))
        made = [aten("empty_like", x, label=f"d{name}") for x, name in ((q, "Q"), (k, "K"), (v, "V"))]
        aten(_BACKWARD, grad, q, k, v, out, lse, *made, label="row dots", **self.options)
        return tuple(made)


def flash_attn_3_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[Dim, Dim] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Any:
    """`flash_attn_interface.flash_attn_func`: q (b, n, h, d), k (b, m, g, d), v (b, m, g, e), h a multiple of g.

    In fp8 (e4m3) the output is bf16, and there is no backward. Raises UsageError for what the package refuses: other
    GPUs than Hopper's, types than fp16, bf16 and fp8, head dims above 256 or no multiple of 8 (16 in fp8), most
    pairs of unlike head dims, deterministic gradients of head dims above 192.
    """
    _check(q, v, deterministic)
    mask = mask_of(causal, window_size)
    return FlashAttn3.apply(q, k, v, mask=mask, deterministic=deterministic, capped=bool(softcap))


def _check(q: Tensor, v: Tensor, deterministic: bool) -> None:
    tape, d, e = q.storage.tape, hint(q.shape[-1]), hint(v.shape[-1])
    if tape.device.capability != 90:
        own = "{}.{}".format(*divmod(tape.device.capability, 10))
        raise UsageError(f"flash-attn-3 is for Hopper, compute capability 9.0, not {own}: take flash-attn")
    if q.dtype not in (float16, bfloat16, float8_e4m3fn):
        raise UsageError(f"flash-attn-3 takes fp16, bf16 and fp8_e4m3, not {short_name(q.dtype)}")
    step = 16 // q.dtype.itemsize  # 16 bytes at a time
    if d % step or e % step or d > 256:
        raise UsageError(f"flash-attn-3 takes head dims up to 256 in multiples of {step}, these are {d} and {e}")
    if d != e and not ((128 < d <= 192 and 96 < e <= 128) or (d <= 64 and e <= 512)):
        raise UsageError(
            f"flash-attn-3 takes values of another head dim for keys in (128, 192] with values in (96, 128], and for "
            f"keys up to 64 with values up to 512: these are {d} and {e}"
        )
    trains = tape.grad_enabled and q.requires_grad
    if trains and q.dtype in FP8:
        raise UsageError("flash-attn-3 in fp8 has no backward: take --phase inference, or bf16")
    if trains and (e > 256 or (deterministic and max(d, e) > 192)):
        what = "deterministic gradients of head dims above 192" if e <= 256 else "gradients of head dims above 256"
        raise UsageError(f"flash-attn-3 has no {what}")

"""The fused attention operators on recording tensors: what each makes, what it saves, and its gradient.

What their kernels launch and allocate is in `memmodel.rules.attention`. Sources: tools/autograd/derivatives.yaml (saved
in the order of their names), torch/_meta_registrations.py (shapes), attention.cu and flash_api.cpp (layouts), of the
CPU FlashAttentionKernel.cpp.
"""

from typing import Any

import memmodel.rules.cpu_attention  # noqa: F401 (registers rules)
from memmodel.base.dtypes import float32, float64, int64, uint64
from memmodel.rules.attention import CUDNN_OP, EFFICIENT_OP, FLASH_OP
from memmodel.rules.dispatch import several
from memmodel.rules.operator import Spec, makes
from memmodel.rules.pointwise import kept_strides
from memmodel.sizes.dims import Shape, ceil_div
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, contiguous_strides, elementwise_strides
from memmodel.tensors.tensor import Tensor

CPU_OP = f"{FLASH_OP}_for_cpu"
_GRADIENTS = ("dQ", "dK", "dV", "gradient of the mask")
_ALIGNED = 16  # columns of a bias' gradient come in multiples: attention_backward.cu


@makes(FLASH_OP)
def _flash(q: Strided, k: Strided, v: Strided, **_: Any) -> list[Spec]:
    """The output in the query's layout, its log-sum-exp, the random generator's state and an unused tensor."""
    return [_like(q), Spec(q.shape[:3], float32), Spec((2,), uint64), Spec((), uint64)]


@makes(EFFICIENT_OP)
def _efficient(q: Strided, k: Strided, v: Strided, bias: Any, trains: bool, **_: Any) -> list[Spec]:
    """The output in (b, n, h, e) order; the log-sum-exp, rows up to 32s, is empty without a gradient."""
    b, h, n, _ = q.shape
    rows = ceil_div(n, 32) * 32 if trains else 0  # kAlignLSE
    return [_rows_outside((b, h, n, v.shape[-1]), q), Spec((b, h, rows), float32), Spec((), int64), Spec((), int64)]


@makes(CUDNN_OP)
def _cudnn(q: Strided, k: Strided, v: Strided, bias: Any, trains: bool, **_: Any) -> list[Spec]:
    """The output in the query's layout; its log-sum-exp; seed and offset."""
    return [_with_last(q, v.shape[-1]), Spec((*q.shape[:3], 1), float32), Spec((), int64), Spec((), int64)]


@makes(f"{FLASH_OP}_backward")
def _flash_backward(grad: Strided, *qkv: Any, **_: Any) -> list[Spec]:
    return [_like(x) for x in qkv[:3]]


@makes(f"{CUDNN_OP}_backward")
def _cudnn_backward(grad: Strided, *qkv: Any, **_: Any) -> list[Spec]:
    return [_like(x) for x in qkv[:3]]


@makes(f"{EFFICIENT_OP}_backward")
def _efficient_backward(
    grad: Strided, q: Strided, k: Strided, v: Strided, bias: Any, *_: Any, bias_learns: bool = False, **__: Any
) -> list[Spec]:
    """dQ, dK and dV in (b, n, h, d) order; the bias' gradient for every head, its columns up to 16s."""
    found = [_rows_outside(x.shape, x) for x in (q, k, v)]
    if bias_learns:
        *outer, m = bias.shape
        strides = contiguous_strides((*outer, ceil_div(m, _ALIGNED) * _ALIGNED))
        found.append(Spec(tuple(bias.shape), bias.dtype, strides))
    return found


@makes(CPU_OP)
def _on_cpu(q: Strided, k: Strided, v: Strided, **_: Any) -> list[Spec]:
    """The output in the query's layout; its log-sum-exp in (b, n, h) order."""
    b, h, n, _e = q.shape
    outer, row, _one = contiguous_strides((b, n, h))
    return [_with_last(q, v.shape[-1]), Spec((b, h, n), float64 if q.dtype is float64 else float32, (outer, 1, row))]


@makes(f"{CPU_OP}_backward")
def _on_cpu_backward(grad: Strided, *qkv: Any, **_: Any) -> list[Spec]:
    return [_rows_outside(x.shape, x) for x in qkv[:3]]


def _like(x: Strided) -> Spec:
    return Spec(x.shape, x.dtype, kept_strides(x))


def _with_last(x: Strided, last: Any) -> Spec:
    """A result of another head dim, in the order of the dimensions of `x`."""
    shape = (*x.shape[:-1], last)
    return Spec(shape, x.dtype, elementwise_strides(shape, [((*x.shape[:-1], last), x.strides)]))


def _rows_outside(shape: Shape, like: Strided) -> Spec:
    """A (b, h, n, d) result that lies in (b, n, h, d) order."""
    b, h, n, d = shape
    outer, rows, heads, last = contiguous_strides((b, n, h, d))
    return Spec(shape, like.dtype, (outer, heads, rows, last))


class SdpaFlash(Op):
    """Flash attention; keeps its operands, its output and the log-sum-exp."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, dropout: float, causal: bool) -> Tensor:
        """One kernel."""
        self.options: dict[str, Any] = {"dropout_p": dropout, "is_causal": causal}
        labels = ("output", "log-sum-exp", "rng state", "unused")
        out, lse, rng, unused = several(FLASH_OP, q, k, v, label=labels, **self.options)
        # Two tensors of a few bytes, but a block of 512 bytes each in the allocator.
        self.save(key=k, logsumexp=lse, output=out, query=q, rng_state=rng, unused=unused, value=v)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """dQ, dK and dV."""
        saved = (self.unpack(name) for name in ("query", "key", "value", "output", "logsumexp", "rng_state", "unused"))
        return several(f"{FLASH_OP}_backward", grad, *saved, label=_GRADIENTS, **self.options)


class SdpaOnCpu(Op):
    """The CPU's flash attention, which keeps the same but for a random state."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
        """One kernel."""
        self.options: dict[str, Any] = {"is_causal": causal}
        out, lse = several(CPU_OP, q, k, v, attn_mask=bias, label=("output", "log-sum-exp"), **self.options)
        kept = {} if bias is None else {"attn_mask": bias}
        self.save(**kept, key=k, logsumexp=lse, output=out, query=q, value=v)
        return out

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """dQ, dK and dV."""
        saved = (self.unpack(name) for name in ("query", "key", "value", "output", "logsumexp"))
        return (*several(f"{CPU_OP}_backward", grad, *saved, label=_GRADIENTS, **self.options), None)


class SdpaEfficient(Op):
    """Memory-efficient attention, which also takes a mask to add, and gives it a gradient."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool) -> Tensor:
        """One kernel."""
        self.options: dict[str, Any] = {"dropout_p": dropout, "is_causal": causal}
        return _masked_forward(self, EFFICIENT_OP, q, k, v, bias)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """dQ, dK, dV and the mask's gradient."""
        names = ("output", "log_sumexp", "philox_seed", "philox_offset")
        operands = (*map(self.unpack, ("query", "key", "value")), self.unpacked.get("attn_bias"))
        learns = self.needs[3]
        found = several(
            f"{EFFICIENT_OP}_backward", grad, *operands, *map(self.unpack, names), bias_learns=learns,
            label=_GRADIENTS, **self.options,
        )  # fmt: skip
        return found if learns else (*found, None)


class SdpaCudnn(Op):
    """cuDNN's attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool) -> Tensor:
        """One kernel."""
        self.options: dict[str, Any] = {"dropout_p": dropout, "is_causal": causal}
        return _masked_forward(self, CUDNN_OP, q, k, v, bias)

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """dQ, dK and dV."""
        names = ("query", "key", "value", "output", "log_sumexp", "philox_seed", "philox_offset")
        operands = (*map(self.unpack, names), self.unpacked.get("attn_bias"))
        return (*several(f"{CUDNN_OP}_backward", grad, *operands, label=_GRADIENTS, **self.options), None)


def _masked_forward(node: Any, op: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The forward operator of either, and what it keeps."""
    labels = ("output", "log-sum-exp", "seed", "offset")
    # should_compute_logsumexp looks at q, k and v: a mask that alone gets a gradient does not count.
    out, lse, seed, offset = several(
        op, q, k, v, bias, node.recorded and any(node.needs[:3]), label=labels, **node.options
    )
    kept = {} if bias is None else {"attn_bias": bias}
    kept |= {"key": k, "log_sumexp": lse, "output": out, "philox_offset": offset, "philox_seed": seed}
    node.save(**kept, query=q, value=v)
    return out

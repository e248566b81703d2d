"""`scaled_dot_product_attention` on recording tensors: the backend that PyTorch takes, its results and saved tensors.

Sources: aten/src/ATen/native/transformers/attention.cpp, cuda/attention.cu, cuda/flash_attn/flash_api.cpp,
FlashAttentionKernel.cpp of the CPU, and tools/autograd/derivatives.yaml. `sdpa` chooses the backend, `attention` says
what the kernels launch.
"""

from typing import Any, ClassVar

import memmodel.rules.attention  # noqa: F401 (registers rules)
from memmodel.dims import Shape, ceil_div, hint
from memmodel.dtypes import DType, element_type, float32, float64, int64
from memmodel.errors import UsageError
from memmodel.rules.dispatch import several
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, kernel, makes, moves, rule
from memmodel.rules.pointwise import kept_strides
from memmodel.rules.sdpa import CUDNN, EFFICIENT, FLASH, Backends, Mask, SdpaCall, choose
from memmodel.tensors.autograd import Op
from memmodel.tensors.layout import Strided, contiguous_strides, elementwise_strides
from memmodel.tensors.tensor import Tensor, new

_UINT64 = element_type("uint64", 8, False)
_CPU_FLASH = "_scaled_dot_product_flash_attention_for_cpu"


def _heads_outside(b: Any, h: Any, n: Any, d: Any) -> Shape:
    """Strides of a (b, h, n, d) tensor that lies in (b, n, h, d) order."""
    outer, row, head, _ = contiguous_strides((b, n, h, d))
    return outer, head, row, 1


def _output(q: Strided, v: Strided) -> Spec:
    """The output in the memory order of the queries."""
    shape = (*q.shape[:3], v.shape[3])
    return Spec(shape, q.dtype, elementwise_strides(shape, [(q.shape[:3] + shape[3:], q.strides)]))


def _output_by_token(q: Strided, v: Strided) -> Spec:
    shape = (*q.shape[:3], v.shape[3])
    return Spec(shape, q.dtype, _heads_outside(*shape))


def _rows(q: Strided, *more: int) -> Spec:
    return Spec((*q.shape[:3], *more), float64 if q.dtype is float64 else float32)


def _padded_rows(q: Strided, trains: bool) -> Spec:
    """A number per row, rows up to a multiple of 32; none without training."""
    return Spec((*q.shape[:2], 32 * ceil_div(q.shape[2], 32) if trains else 0), float32)


def _like(x: Strided) -> Spec:
    return Spec(x.shape, x.dtype, kept_strides(x))


def _by_token(x: Strided) -> Spec:
    return Spec(x.shape, x.dtype, _heads_outside(*x.shape))


def _state(shape: Shape, kind: DType) -> Spec:
    """A state of the random generator."""
    return Spec(shape, kind)


makes("_scaled_dot_product_flash_attention")(
    lambda q, k, v, *_, **__: [_output(q, v), _rows(q), _state((2,), _UINT64), _state((), _UINT64)]
)
makes("_scaled_dot_product_efficient_attention")(
    lambda q, k, v, bias, trains, *_, **__: [
        _output_by_token(q, v), _padded_rows(q, trains), _state((), int64), _state((), int64)
    ]
)  # fmt: skip
makes("_scaled_dot_product_cudnn_attention")(
    lambda q, k, v, *_, **__: [_output(q, v), _rows(q, 1), _state((), int64), _state((), int64)]
)
makes(_CPU_FLASH)(lambda q, k, v, *_, **__: [_output(q, v), _cpu_rows(q)])
makes("_scaled_dot_product_flash_attention_backward", "_scaled_dot_product_cudnn_attention_backward")(
    lambda grad, q, k, v, *_, **__: [_like(q), _like(k), _like(v)]
)
makes("_scaled_dot_product_efficient_attention_backward", f"{_CPU_FLASH}_backward")(
    lambda grad, q, k, v, *_, **__: [_by_token(q), _by_token(k), _by_token(v)]
)


def _cpu_rows(q: Strided) -> Spec:
    """A number per row, in (b, n, h) order."""
    b, h, n, _ = q.shape
    outer, row, _ = contiguous_strides((b, n, h))
    return Spec((b, h, n), _rows(q).dtype, (outer, 1, row))


@rule(_CPU_FLASH, f"{_CPU_FLASH}_backward")
def on_cpu(call: Call) -> Steps:
    """The results; the buffers of each thread are left out, as those of the CPU's matrix products."""
    yield RESULTS
    yield kernel("flash_attention", call.tensors(), call.results, call.out.dtype, kind="fused")


class _Fused(Op):
    """A fused attention; saves its operands, its output and a number per row."""

    operator: ClassVar[str]
    keeps: ClassVar[tuple[str, ...]]  # results saved, by the names that sort them among the operands

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, dropout: float, learns: bool
    ) -> Tensor:
        """One kernel."""
        self.options: dict[str, Any] = {"is_causal": causal, "dropout_p": dropout}
        out, *rest = several(self.operator, *self.arguments(q, k, v, bias, learns), label=self.labels, **self.options)
        found = {"key": k, "output": out, "query": q, "value": v, **dict(zip(self.keeps, rest, strict=True))}
        if bias is not None:
            self.save(attn_bias=bias)
        self.biased = bias is not None
        self.save(**dict(sorted(found.items())))
        return out

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the results."""
        return ("attention", "lse", "random state", "random state")[: 1 + len(self.keeps)]

    def arguments(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, learns: bool) -> tuple[Any, ...]:
        """The operands, and those of the operator's own."""
        return q, k, v

    def backward(self, grad: Tensor) -> tuple[Any, ...]:
        """One operator."""
        q, k, v, out, rows = (self.unpack(n) for n in ("query", "key", "value", "output", self.keeps[0]))
        grads = several(f"{self.operator}_backward", *self.operands(grad, q, k, v, out, rows), **self.options)
        return *grads, None

    def operands(self, grad: Tensor, *kept: Tensor) -> tuple[Any, ...]:
        """The operands of the gradient."""
        return grad, *kept


class FlashAttention(_Fused):
    """FlashAttention-2 on CUDA."""

    operator, keeps = "_scaled_dot_product_flash_attention", ("logsumexp", "rng_state", "unused")


class EfficientAttention(_Fused):
    """The memory-efficient kernel of CUTLASS."""

    operator, keeps = "_scaled_dot_product_efficient_attention", ("log_sumexp", "philox_seed", "philox_offset")

    def arguments(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, learns: bool) -> tuple[Any, ...]:
        """With the bias; rows' numbers for training alone."""
        return q, k, v, bias, learns

    def operands(self, grad: Tensor, *kept: Tensor) -> tuple[Any, ...]:
        """With the bias among them."""
        q, k, v, out, rows = kept
        return grad, q, k, v, self.unpack("attn_bias") if self.biased else None, out, rows


class CudnnAttention(_Fused):
    """cuDNN's kernel."""

    operator, keeps = "_scaled_dot_product_cudnn_attention", ("logsumexp", "philox_seed", "philox_offset")
    arguments = EfficientAttention.arguments


class CpuAttention(_Fused):
    """The CPU's flash kernel."""

    operator, keeps = _CPU_FLASH, ("logsumexp",)


_OPS: dict[str, type[_Fused]] = {FLASH: FlashAttention, EFFICIENT: EfficientAttention, CUDNN: CudnnAttention}


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    enable_gqa: bool = False,
) -> Any:
    """Attention by the backend that PyTorch would choose; shapes and mask (bool) as there.

    Raises UsageError where that is no fused kernel.
    """
    tape = query.storage.tape
    given = query, key, value
    learns = tape.grad_enabled and any(x.requires_grad for x in given)
    q, k, v = (tuple(map(hint, x.shape)) for x in given)
    mask = None if attn_mask is None else Mask(tuple(map(hint, attn_mask.shape)), attn_mask.dtype)
    call = SdpaCall(
        q, k, v, query.dtype, mask, dropout_p, is_causal, enable_gqa, learns, tape.device.deterministic,
        unit_stride=all(hint(x.strides[-1]) == 1 for x in given),
    )  # fmt: skip
    cuda = tape.device.name == "cuda"
    backend = choose(call, Backends(tape.device.capability if cuda else 0, tape.device.torch)).backend
    op = CpuAttention if not cuda and backend == FLASH else _OPS.get(backend or "")
    if op is None:
        raise UsageError(
            f"scaled_dot_product_attention of {call.dtype} head dim {call.head_dims[0]}: no fused kernel takes it; "
            "choose another attention"
        )
    bias = None if attn_mask is None else _bias(attn_mask, query, key, backend == EFFICIENT)
    return op.apply(*given, bias, causal=is_causal, dropout=dropout_p, learns=learns)


def _bias(mask: Tensor, query: Tensor, key: Tensor, padded: bool) -> Tensor:
    """The mask as numbers to add (convert_boolean_attn_mask), for efficient in rows of a multiple of 8 (pad_bias)."""
    numbers = new(mask.storage.tape, Spec(mask.shape, query.dtype), "attn_bias")
    numbers.storage.tape.launch(moves("where", [mask], [numbers]))
    if padded and hint(mask.shape[-1]) % 8:
        wide = new(mask.storage.tape, Spec((*mask.shape[:-1], 8 * ceil_div(mask.shape[-1], 8)), query.dtype), "pad")
        wide.storage.tape.launch(moves("pad", [numbers], [wide]))
        numbers = wide.narrow(-1, 0, mask.shape[-1])
    biases: Tensor = numbers.expand(*query.shape[:3], key.shape[2])
    return biases

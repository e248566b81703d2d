"""The kernels as PyTorch sees them: an autograd function in eager mode, operators where a call is traced.

The function costs the host little and follows `torch.func`. The operators are what compilers, fake tensors and dispatch
modes need: one call that they cannot look into, with plain numbers beside tensors. Operators can be called directly, so
they check their input again.
"""

import dataclasses
from typing import Any, NoReturn, Optional

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as are_functorch_transforms_active
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from memmodel.base.errors import UsageError
from memmodel_kernels.flash import check_options
from memmodel_kernels.triton_flash import launch
from memmodel_kernels.triton_flash.launch import NOTHING, Beside
from memmodel_kernels.triton_flash.problem import (
    Problem,
    check_bias,
    check_seed,
    check_sequences,
    checked,
    described,
)
from memmodel_kernels.triton_flash.sequences import Sequences

NO_FORWARD_MODE = (
    "flash_attention has no forward-mode derivative: use reverse mode (backward, torch.func.grad, vjp, jacrev), or "
    "scaled_dot_product_attention under sdpa_kernel(SDPBackend.MATH)"
)
NO_GRADIENT_OF_BIAS = (
    "flash_attention has no gradient of its bias: pass bias.detach(), or learn it with scaled_dot_product_attention or "
    "FlexAttention"
)
PLAIN = Tensor, torch.nn.Parameter  # the types that no library has overloaded
NO_MAP = "flash_attention of packed sequences cannot be mapped: more sequences are more offsets"
NO_MAP_OF_BIAS = "flash_attention with a bias cannot be mapped: fold the mapped dimension into the batch"
ONE_SEED = "flash_attention with dropout is mapped under one seed: take vmap(..., randomness='same')"
NO_SECOND_DERIVATIVE = (
    "flash_attention has no second derivative: its backward keeps no graph; use scaled_dot_product_attention under "
    "sdpa_kernel(SDPBackend.MATH)"
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    scale: float | None,
    precision: str | None,
    deterministic: bool,
    softcap: float | None,
    dropout: float = 0.0,
    bias: Tensor | None = None,
    longest: list[int] | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(o, lse) of attention, differentiable; under autocast in its dtype, but for the bias, which is read as it is.

    `longest`: queries and keys of the longest of packed sequences, whose offsets follow. The seed of dropout is drawn
    here, on the GPU and outside the operator: compilers, CUDA graphs and checkpoints treat it as any random tensor.
    """
    if bias is not None:
        check_bias(bias, q, k)
        if bias.requires_grad and torch.is_grad_enabled():
            raise UsageError(NO_GRADIENT_OF_BIAS)
    seed = torch.randint(2**63 - 1, (1,), device=q.device) if dropout else None
    if torch.is_autocast_enabled("cuda" if q.is_cuda else "cpu"):
        q, k, v = _autocast(q, k, v)
    if not torch.compiler.is_compiling():
        if type(q) in PLAIN and not is_in_torch_dispatch_mode():
            lengths = None if longest is None else _lengths(longest, cu_seqlens_q, cu_seqlens_k, q)
            problem = checked(
                q, k, v, causal, window, scale, precision, deterministic, softcap, lengths, dropout, bias is not None
            )
            function: Any = FlashAttention if are_functorch_transforms_active() else EagerFlashAttention
            results: tuple[Tensor, Tensor]
            # Nothing more is passed for a plain batch: each argument of `apply` costs the host time.
            if longest is None and seed is None and bias is None:
                results = function.apply(q, k, v, problem)
            else:
                results = function.apply(q, k, v, problem, cu_seqlens_q, cu_seqlens_k, seed, bias)
            return results
        if any(unpack_dual(x).tangent is not None for x in (q, k, v, bias) if x is not None):  # type: ignore[no-untyped-call]
            raise UsageError(NO_FORWARD_MODE)
    check_options(causal, window, scale, softcap, deterministic, dropout)
    options = causal, window, scale, precision, deterministic, softcap, longest, dropout
    o, lse = flash_attention_op(q, k, v, *options, cu_seqlens_q, cu_seqlens_k, seed, bias)
    return o, lse


def _lengths(
    longest: list[int] | None, cu_seqlens_q: Tensor | None, cu_seqlens_k: Tensor | None, q: Tensor
) -> tuple[int, int, int] | None:
    """How many packed sequences there are, and the most queries and keys of one; None of a batch."""
    if longest is None:
        return None
    count = check_sequences(longest, cu_seqlens_q, cu_seqlens_k, q)
    return count, longest[0], longest[1]


def _beside(*tensors: Tensor | None) -> Beside:
    """What is passed beside q, k and v: the offsets of packed sequences, the seed of dropout, the bias; or nothing."""
    if not tensors:
        return NOTHING
    *offsets, seed, bias = tensors
    return Beside(None if offsets[0] is None else Sequences(*offsets), seed, bias)


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """Cast as autocast casts the arguments of scaled_dot_product_attention: every floating type but fp64."""
    dtype = torch.get_autocast_dtype("cuda" if tensors[0].is_cuda else "cpu")
    return [x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors]


class FlashAttention(torch.autograd.Function):
    """(o, lse) of a checked problem."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem, *beside: Tensor | None) -> tuple[Tensor, Tensor]:
        """Launch the forward kernel. `beside` are offsets of packed sequences, the seed of dropout, and the bias."""
        return launch.forward(q, k, v, problem, _beside(*beside))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keep the inputs and outputs for backward."""
        q, k, v, problem, *beside = inputs
        ctx.options = (problem,)
        # Without this, a caller who ignores the LSE would pay for a gradient of zeros, (b, h, n) in fp32.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, *output, *beside)

    @staticmethod
    def backward(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        """Launch the backward kernels."""
        q, k, v, o, lse, *beside = ctx.saved_tensors
        gradients = _gradients(_or_zero(do, o), dlse, q, k, v, o, lse, *ctx.options, *beside)
        return (*gradients, None, *[None] * len(beside))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        """Refuse: left out, forward mode would stop here with a message that names no remedy."""
        raise UsageError(NO_FORWARD_MODE)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], q: Tensor, k: Tensor, v: Tensor, problem: Problem, *beside: Any
    ) -> Any:
        """Fold the mapped dimension into the batch."""
        return _mapped(FlashAttention, info.batch_size, in_dims, (q, k, v), problem, beside)


class EagerFlashAttention(FlashAttention):
    """The operator without `torch.func`, which adds 20 us to each call of a function with a setup_context."""

    setup_context = torch.autograd.Function.setup_context

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, problem: Problem, *beside: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Launch the forward kernel, and keep what backward needs."""
        o, lse = launch.forward(q, k, v, problem, _beside(*beside))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, o, lse, *beside)
        ctx.options = (problem,)
        return o, lse


class FlashAttentionBackward(torch.autograd.Function):
    """(dq, dk, dv): a function itself, so that `vmap` over gradients (jacrev) can reach it."""

    @staticmethod
    def forward(
        do: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, problem: Problem,
        *beside: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Launch the backward kernels."""
        return launch.backward(do, dlse, q, k, v, o, lse, problem, _beside(*beside))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep nothing: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> NoReturn:
        """Refuse."""
        raise UsageError(NO_SECOND_DERIVATIVE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        """Refuse."""
        raise UsageError(NO_SECOND_DERIVATIVE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        """Fold the mapped dimension into the batch."""
        tensors, problem, beside = arguments[:7], arguments[7], arguments[8:]
        return _mapped(FlashAttentionBackward, info.batch_size, in_dims, tensors, problem, beside)


def _gradients(
    do: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, problem: Problem,
    *beside: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(dq, dk, dv), as a function of their own only where somebody differentiates or maps them."""
    if is_legacy_batchedtensor(do) or (dlse is not None and is_legacy_batchedtensor(dlse)):
        raise UsageError(
            "flash_attention takes one upstream gradient at a time: instead of is_grads_batched, use torch.func.vmap "
            "over torch.func.vjp"
        )
    if torch.is_grad_enabled() or are_functorch_transforms_active():
        function: Any = FlashAttentionBackward
        dq, dk, dv = function.apply(do, dlse, q, k, v, o, lse, problem, *beside)
        return dq, dk, dv
    return launch.backward(do, dlse, q, k, v, o, lse, problem, _beside(*beside))


def _or_zero(do: Tensor | None, o: Tensor) -> Tensor:
    """The gradient of o; where only the LSE was used, one zero, seen through strides of 0."""
    return o.new_zeros(()).expand_as(o) if do is None else do


def _mapped(
    function: Any, size: int, in_dims: tuple[int | None, ...], tensors: Any, problem: Problem, beside: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Call `function` on tensors (size * b, ...) and give the results their mapped dimension back, in front."""
    if problem.packed:
        raise UsageError(NO_MAP)
    if beside and in_dims[-2] is not None:
        raise UsageError(ONE_SEED)
    if beside and beside[-1] is not None:
        raise UsageError(NO_MAP_OF_BIAS)

    def folded(x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None:
            return None
        return (x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)

    larger = dataclasses.replace(problem, b=size * problem.b)
    results = function.apply(*map(folded, tensors, in_dims), larger, *beside)
    return tuple(x.unflatten(0, (size, problem.b)) for x in results), (0,) * len(results)


@torch.library.custom_op("memmodel::flash_attention", mutates_args=())
def flash_attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: Optional[int],  # noqa: UP045  (the schema inference of older torch reads Optional only)
    scale: Optional[float],  # noqa: UP045
    precision: Optional[str],  # noqa: UP045
    deterministic: bool,
    softcap: Optional[float] = None,  # noqa: UP045
    longest: Optional[list[int]] = None,  # noqa: UP045
    dropout: float = 0.0,
    cu_seqlens_q: Optional[Tensor] = None,  # noqa: UP045
    cu_seqlens_k: Optional[Tensor] = None,  # noqa: UP045
    seed: Optional[Tensor] = None,  # noqa: UP045
    bias: Optional[Tensor] = None,  # noqa: UP045
) -> tuple[Tensor, Tensor]:
    """(o, lse) of attention; `deterministic` is for the backward pass."""
    lengths = _lengths(longest, cu_seqlens_q, cu_seqlens_k, q)
    check_seed(dropout, seed, q)
    if bias is not None:
        check_bias(bias, q, k)
    extras = softcap, lengths, dropout, bias is not None
    problem = checked(q, k, v, causal, window, scale, precision, deterministic, *extras)
    return launch.forward(q, k, v, problem, _beside(cu_seqlens_q, cu_seqlens_k, seed, bias))


@flash_attention_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    scale: float | None,
    precision: str | None,
    deterministic: bool,
    softcap: float | None = None,
    longest: list[int] | None = None,
    dropout: float = 0.0,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    seed: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    lengths = _lengths(longest, cu_seqlens_q, cu_seqlens_k, q)
    check_seed(dropout, seed, q)
    described(q, k, v, causal, window, scale, precision, deterministic, softcap, lengths, dropout, bias is not None)
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("memmodel::flash_attention_backward", mutates_args=())
def flash_attention_backward_op(
    do: Tensor,
    dlse: Optional[Tensor],  # noqa: UP045
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    causal: bool,
    window: Optional[int],  # noqa: UP045
    scale: Optional[float],  # noqa: UP045
    precision: Optional[str],  # noqa: UP045
    deterministic: bool,
    softcap: Optional[float] = None,  # noqa: UP045
    longest: Optional[list[int]] = None,  # noqa: UP045
    dropout: float = 0.0,
    cu_seqlens_q: Optional[Tensor] = None,  # noqa: UP045
    cu_seqlens_k: Optional[Tensor] = None,  # noqa: UP045
    seed: Optional[Tensor] = None,  # noqa: UP045
    bias: Optional[Tensor] = None,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) of attention."""
    lengths = _lengths(longest, cu_seqlens_q, cu_seqlens_k, q)
    check_seed(dropout, seed, q)
    if bias is not None:
        check_bias(bias, q, k)
    extras = softcap, lengths, dropout, bias is not None
    problem = checked(q, k, v, causal, window, scale, precision, deterministic, *extras)
    return launch.backward(do, dlse, q, k, v, o, lse, problem, _beside(cu_seqlens_q, cu_seqlens_k, seed, bias))


@flash_attention_backward_op.register_fake
def _(do: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _op_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.options, cu_seqlens_q, cu_seqlens_k, seed, bias = inputs
    if bias is not None and bias.requires_grad:
        raise UsageError(NO_GRADIENT_OF_BIAS)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *output, cu_seqlens_q, cu_seqlens_k, seed, bias)


def _op_backward(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, o, lse, *beside = ctx.saved_tensors
    gradients = flash_attention_backward_op(_or_zero(do, o), dlse, q, k, v, o, lse, *ctx.options, *beside)
    return (*gradients, *[None] * (len(ctx.options) + len(beside)))


flash_attention_op.register_autograd(_op_backward, setup_context=_op_setup)

"""The kernels as PyTorch operators: for autograd, fake tensors and torch.compile.

Both are opaque to the compiler and take plain numbers beside tensors. They can be called directly, so they check their
input again.
"""

from typing import Any, Optional

import torch
from torch import Tensor

from memmodel_kernels.triton_flash import launch
from memmodel_kernels.triton_flash.problem import checked


@torch.library.custom_op("memmodel::flash_attention", mutates_args=())
def flash_attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: Optional[int],  # noqa: UP045  (the schema inference of older torch reads Optional only)
    scale: float,
    precision: Optional[str],  # noqa: UP045
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """(o, lse) of attention; `deterministic` is for the backward pass."""
    return launch.forward(q, k, v, checked(q, k, v, causal, window, scale, precision))


@flash_attention_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    scale: float,
    precision: str | None,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
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
    scale: float,
    precision: Optional[str],  # noqa: UP045
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) of attention."""
    problem = checked(q, k, v, causal, window, scale, precision)
    return launch.backward(do, dlse, q, k, v, o, lse, problem, deterministic)


@flash_attention_backward_op.register_fake
def _(do: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.options = inputs
    # Without this, a caller who ignores the LSE would pay for a gradient of zeros, (b, h, n) in fp32.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *output)


def _backward(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, o, lse = ctx.saved_tensors
    if do is None:  # only the LSE was used: one zero, seen through strides of 0
        do = o.new_zeros(()).expand_as(o)
    gradients = flash_attention_backward_op(do, dlse, q, k, v, o, lse, *ctx.options)
    return (*gradients, None, None, None, None, None)


flash_attention_op.register_autograd(_backward, setup_context=_setup_context)

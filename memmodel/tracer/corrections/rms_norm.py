"""RMS norm as CUDA runs it from torch 2.9 on: one kernel, which keeps its input and a number per row.

Source: aten/src/ATen/native/layer_norm.cpp (rms_norm_symint), cuda/layer_norm_kernel.cu (_fused_rms_norm_cuda and its
backward). Earlier versions, complex numbers and a weight of another type take plain operators, as the CPU does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FUSED_SINCE = (2, 9)
_PLAIN = torch.rms_norm


def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Norm over the last dimensions, of the sizes `shape`."""
    if x.is_complex() or (weight is not None and weight.dtype is not x.dtype):
        return _PLAIN(x, shape, weight, eps)
    return FusedRmsNorm.apply(x, weight, len(shape))  # type: ignore[no-any-return, no-untyped-call]


@torch.library.custom_op("memmodel_trace::_fused_rms_norm", mutates_args=())
def _forward(x: Tensor, weight: Tensor | None, dims: int) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("without data alone")


@_forward.register_fake
def _(x: Tensor, weight: Tensor | None, dims: int) -> tuple[Tensor, Tensor]:
    # Statistics in the accumulation type (cuda/layer_norm_kernel.cu, acc_type).
    kind = torch.float64 if x.dtype is torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-dims], *[1] * dims), dtype=kind)


@torch.library.custom_op("memmodel_trace::_fused_rms_norm_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("without data alone")


@_backward.register_fake
def _(grad: Tensor, x: Tensor, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


class FusedRmsNorm(torch.autograd.Function):
    """The kernel, with the gradients of its input and weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, dims: int) -> Tensor:
        """The norm; keeps input, rows and weight."""
        out, rows = torch.ops.memmodel_trace._fused_rms_norm(x, weight, dims)
        ctx.save_for_backward(x, rows, weight)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Both gradients by one kernel."""
        x, rows, weight = ctx.saved_tensors
        # The operator takes a tensor; an empty one counts as none.
        scale = x.new_empty(0) if weight is None else weight
        of_x, of_weight = torch.ops.memmodel_trace._fused_rms_norm_backward(grad, x, rows, scale)
        return of_x, None if weight is None else of_weight, None

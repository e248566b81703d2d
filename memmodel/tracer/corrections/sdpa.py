"""`scaled_dot_product_attention` as CUDA runs it: how the kernel's operator is called, its mask and head dim prepared.

Source: aten/src/ATen/native/transformers/attention.cpp. Which kernel it is, `memmodel.rules.sdpa` decides; what the
kernels allocate and compute is in `memmodel.rules.attention`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from memmodel.rules.plain_attention import Library, plain
from memmodel.rules.sdpa import CUDNN, EFFICIENT, FLASH, MATH, Mask, SdpaCall
from memmodel.tracer.corrections.torch_types import kind_of, number

aten = torch.ops.aten


class Call(NamedTuple):
    """The arguments of one call."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    @property
    def needs_grad(self) -> bool:
        """Whether query, key or value needs a gradient."""
        return torch.is_grad_enabled() and any(x.requires_grad for x in (self.query, self.key, self.value))

    def described(self) -> SdpaCall:
        """The call as the choice of a backend reads it, at the hints of symbols."""
        q, k, v = given = self.query, self.key, self.value
        return SdpaCall(
            _sizes(q),
            _sizes(k),
            _sizes(v),
            kind_of(q.dtype),
            None if self.attn_mask is None else _mask(self.attn_mask),
            self.dropout_p,
            self.is_causal,
            self.enable_gqa,
            needs_grad=self.needs_grad,
            deterministic=deterministic(),
            # What the filters of sdp_utils.cpp read of the tensors: their last stride and their alignment.
            unit_stride=all(number(x.stride(-1)) == 1 for x in given),
            aligned=all(number(x.storage_offset()) * x.element_size() % 16 == 0 for x in given),
        )


def deterministic() -> bool:
    """Whether deterministic algorithms are demanded, not only warned about."""
    return torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()


def enabled() -> frozenset[str]:
    """The backends that `sdpa_kernel` and the switches of torch.backends.cuda leave on."""
    switches: Any = torch.backends.cuda
    on = {
        FLASH: switches.flash_sdp_enabled(),
        EFFICIENT: switches.mem_efficient_sdp_enabled(),
        CUDNN: switches.cudnn_sdp_enabled(),
        MATH: switches.math_sdp_enabled(),
    }
    return frozenset(name for name, taken in on.items() if taken)


def _sizes(x: Tensor) -> tuple[int, ...]:
    return tuple(map(number, x.shape))


def _mask(x: Tensor) -> Mask:
    return Mask(_sizes(x), kind_of(x.dtype), x.requires_grad, number(x.stride(-1)) if x.dim() else 1)


def run(call: Call, kernel: str) -> Tensor:
    """The call, by that kernel's operator; "math" only with dropout, which is one operator on CUDA (native_dropout)."""
    q, k, v = call.query, call.key, call.value
    if kernel == MATH:
        shares = call.enable_gqa and _sizes(q)[1] != _sizes(k)[1]
        found: Tensor = plain(_TORCH, q, k, v, call.attn_mask, call.dropout_p, call.is_causal, shares)
        return found
    if kernel == FLASH:
        return _flash(call)
    shared = q, k, v, _bias(call, kernel), call.needs_grad, call.dropout_p, call.is_causal
    out: Tensor
    if kernel == EFFICIENT:
        out = aten._scaled_dot_product_efficient_attention(*shared, scale=call.scale)[0]
    else:
        # False: no debug mask is returned.
        out = aten._scaled_dot_product_cudnn_attention(*shared, False, scale=call.scale)[0]
    return out


def _flash(call: Call) -> Tensor:
    """Head dims that are no multiple of 8 are padded, and cut from the result."""
    q, k, v = call.query, call.key, call.value
    head_dim = _sizes(q)[-1]
    missing = -head_dim % 8
    scale = call.scale
    if missing:
        # Padding changes no score: the scale is that of the head dim before.
        scale = head_dim**-0.5 if scale is None else scale
        q, k, v = (torch.nn.functional.pad(x, (0, missing)) for x in (q, k, v))
    out: Tensor = aten._scaled_dot_product_flash_attention(q, k, v, call.dropout_p, call.is_causal, False, scale=scale)[
        0
    ]
    return out[..., :head_dim] if missing else out


def _bias(call: Call, kernel: str) -> Tensor | None:
    """The mask as numbers to add (convert_boolean_attn_mask), expanded to the scores.

    Efficient attention reads rows that begin at multiples of 8 elements: others are copied, padded (pad_bias).
    """
    mask: Tensor | None = _TORCH.numbers(call.attn_mask, call.query.dtype)
    if mask is None:
        return None
    if kernel == EFFICIENT and not _rows_aligned(mask):
        keys = mask.shape[-1]
        # Rows that end on a multiple get 8 more elements too, as pad_bias has it.
        mask = torch.nn.functional.pad(mask, (0, 8 - _sizes(mask)[-1] % 8))[..., :keys]
    return mask.expand(call.query.shape[0], call.query.shape[1], call.query.shape[2], call.key.shape[2])


def _where(mask: Tensor, dtype: torch.dtype) -> Tensor:
    zero, least = (torch.scalar_tensor(x, dtype=dtype) for x in (0.0, float("-inf")))
    return torch.where(mask, zero, least)


def _dropout(x: Tensor, p: float, train: bool) -> Tensor:
    found: Tensor = torch.native_dropout(x, p, train)[0]
    return found


_TORCH = Library(torch.float32, torch.bool, torch.ones, _where, aten._safe_softmax, _dropout)


def _rows_aligned(mask: Tensor) -> bool:
    *outer, last = map(number, mask.stride())
    return last == 1 and not any(step % 8 for step in outer)

"""`scaled_dot_product_attention` as CUDA runs it: which kernel, and how mask and head dim are prepared for it.

Sources: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (which kernel), attention.cpp (preparation). What the
kernels allocate and compute is in `memmodel.rules.attention`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
CUDNN_UNKNOWN = "cuDNN's attention takes a workspace that no source states: counted as 0"
EFFICIENT_UNKNOWN = "the workspace of efficient attention's backward is not modelled: counted as 0"


class Backends(NamedTuple):
    """What decides besides the arguments: compute capability as one number (80 is 8.0), torch's version."""

    arch: int = 80
    torch: tuple[int, int] = (2, 13)


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


def chosen(call: Call, backends: Backends) -> str:
    """The kernel that CUDA takes: "flash", "efficient", "cudnn" or "math"."""
    enabled: Any = torch.backends.cuda
    order = ["flash", "efficient", "math"]
    if backends.arch in (90, 100) and backends.torch >= (2, 11):
        order.insert(0, "cudnn")
    allowed = {
        "flash": enabled.flash_sdp_enabled() and _flash_takes(call, backends),
        "efficient": enabled.mem_efficient_sdp_enabled() and _efficient_takes(call, backends),
        "cudnn": enabled.cudnn_sdp_enabled() and _cudnn_takes(call),
        "math": True,
    }
    return next(name for name in order if allowed[name])


def _sizes(x: Tensor) -> tuple[int, ...]:
    return tuple(int(s.node.hint) if isinstance(s, torch.SymInt) else int(s) for s in x.shape)


def _flash_takes(call: Call, backends: Backends) -> bool:
    q, k, v = _sizes(call.query), _sizes(call.key), _sizes(call.value)
    return (
        len(q) == 4
        and backends.arch >= 80
        and call.query.dtype in _HALF
        and call.attn_mask is None
        and q[-1] == k[-1] == v[-1] <= 256
        and (not call.is_causal or q[-2] == k[-2])
        and (q[1] == k[1] or call.enable_gqa)
    )


def _efficient_takes(call: Call, backends: Backends) -> bool:
    q, k, v = _sizes(call.query), _sizes(call.key), _sizes(call.value)
    half = call.query.dtype in _HALF
    if len(q) != 4 or q[1] != k[1] or call.query.dtype is torch.float64:
        return False
    if call.query.dtype is torch.bfloat16 and backends.arch < 80:
        return False
    unit = 8 if half else 4 if backends.arch >= 80 else 1
    needs_mask_gradient = call.attn_mask is not None and call.attn_mask.requires_grad
    return q[-1] % unit == 0 and v[-1] % unit == 0 and not needs_mask_gradient


def _cudnn_takes(call: Call) -> bool:
    q, v = _sizes(call.query), _sizes(call.value)
    return len(q) == 4 and call.query.dtype in _HALF and q[-1] % 8 == v[-1] % 8 == 0 and max(q[-1], v[-1]) <= 128


def run(call: Call, kernel: str) -> Tensor:
    """The call, by that kernel's operator (not "math")."""
    q, k, v = call.query, call.key, call.value
    if kernel == "flash":
        return _flash(call)
    bias = _bias(call)
    records = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if kernel == "efficient":
        out: Tensor = aten._scaled_dot_product_efficient_attention(
            q, k, v, bias, records, call.dropout_p, call.is_causal, scale=call.scale
        )[0]
        return out
    results = aten._scaled_dot_product_cudnn_attention(
        q, k, v, bias, records, call.dropout_p, call.is_causal, False, scale=call.scale
    )
    return results[0]  # type: ignore[no-any-return]


def _flash(call: Call) -> Tensor:
    """Head dims that are no multiple of 8 are padded, and cut from the result."""
    q, k, v = call.query, call.key, call.value
    head_dim = _sizes(q)[-1]
    missing = -head_dim % 8
    scale = call.scale
    if missing:
        scale = head_dim**-0.5 if scale is None else scale
        q, k, v = (torch.nn.functional.pad(x, (0, missing)) for x in (q, k, v))
    out: Tensor = aten._scaled_dot_product_flash_attention(q, k, v, call.dropout_p, call.is_causal, False, scale=scale)[
        0
    ]
    return out[..., :head_dim] if missing else out


def _bias(call: Call) -> Tensor | None:
    """A bool mask as numbers to add, in memory whose rows are multiples of 16 elements."""
    mask = call.attn_mask
    if mask is None:
        return None
    if mask.dtype is torch.bool:
        bias = torch.zeros_like(mask, dtype=call.query.dtype)
        bias.masked_fill_(mask.logical_not(), float("-inf"))
        mask = bias
    missing = -_sizes(mask)[-1] % 16
    if missing:
        keys = mask.shape[-1]
        mask = torch.nn.functional.pad(mask, (0, missing))[..., :keys]
    shape = (call.query.shape[0], call.query.shape[1], call.query.shape[2], call.key.shape[2])
    return mask.expand(shape)

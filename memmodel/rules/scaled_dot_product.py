"""`scaled_dot_product_attention` on recording tensors: the choice of a backend, its preparations, plain operators.

Source: aten/src/ATen/native/transformers/attention.cpp. The choice is `memmodel.rules.sdpa`'s.
"""

import math
from collections.abc import Collection
from typing import Any

from memmodel.base.dtypes import DType, bool_, float32
from memmodel.rules.copies import ones
from memmodel.rules.dispatch import aten
from memmodel.rules.dropout import dropout
from memmodel.rules.fused_attention import SdpaCudnn, SdpaEfficient, SdpaFlash, SdpaOnCpu
from memmodel.rules.plain_attention import Library, plain
from memmodel.rules.sdpa import ALL, CUDNN, EFFICIENT, FLASH, MATH, Backends, Mask, SdpaCall, check, choose
from memmodel.rules.softmax import safe_softmax
from memmodel.sizes.dims import hint, same
from memmodel.tensors.tensor import Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    enabled: Collection[str] = ALL,
) -> Any:
    """torch.nn.functional.scaled_dot_product_attention, by the backend that PyTorch takes on the tape's device.

    Shapes: query (b, h, n, d), key (b, g, m, d), value (b, g, m, e), attn_mask up to (b, h, n, m). The choice is noted
    on the tape, with the reason why each backend tried before it does not take the call.

    Args:
        query: and the others, as of PyTorch's function.
        key: see above.
        value: see above.
        attn_mask: bool, true where a pair counts, or numbers to add.
        dropout_p: probability.
        is_causal: query i sees the keys up to i.
        scale: changes no memory.
        enable_gqa: whether key and value heads are shared.
        enabled: the backends that `sdpa_kernel` leaves on.

    Raises UsageError where no backend that is left takes the call, with the reason of each.
    """
    tape, shares = query.storage.tape, enable_gqa and not same(query.shape[1], key.shape[1])
    device = tape.device
    on_cuda = device.name == "cuda"
    call = _described(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    choice = choose(call, Backends(device.capability if on_cuda else 0, device.torch, device.gfx), enabled)
    check(choice, call)
    tape.choices.append(choice)  # reports say which kernel ran, and why not those tried before it
    if choice.backend == FLASH and not on_cuda:
        bias = _bias(query, key, attn_mask, FLASH)
        return SdpaOnCpu.apply(query, key, value, bias, causal=is_causal)
    if choice.backend == FLASH:
        return _flash(query, key, value, dropout_p, is_causal)
    if choice.backend == MATH:
        return plain(_RECORDING, query, key, value, attn_mask, dropout_p, is_causal, shares)
    op = {EFFICIENT: SdpaEfficient, CUDNN: SdpaCudnn}[str(choice.backend)]
    bias = _bias(query, key, attn_mask, str(choice.backend))
    return op.apply(query, key, value, bias, dropout=dropout_p, causal=is_causal)


def _described(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float, causal: bool, gqa: bool
) -> SdpaCall:
    """The call as the choice reads it."""
    (query, q_strides, _), (key, k_strides, _), (value, v_strides, _) = (x.numbers() for x in (q, k, v))
    tape = q.storage.tape
    return SdpaCall(
        query, key, value, q.dtype,
        None if mask is None else _described_mask(mask),
        dropout_p, causal, gqa,
        needs_grad=tape.grad_enabled and any(x.requires_grad for x in (q, k, v)),
        deterministic=tape.device.deterministic,
        unit_stride=all(strides[-1] == 1 for strides in (q_strides, k_strides, v_strides)),
        aligned=all(hint(x.offset) * x.dtype.itemsize % 16 == 0 for x in (q, k, v)),
    )  # fmt: skip


def _described_mask(mask: Tensor) -> Mask:
    sizes, strides, _ = mask.numbers()
    return Mask(sizes, mask.dtype, mask.requires_grad, strides[-1] if strides else 1)


def _flash(q: Tensor, k: Tensor, v: Tensor, dropout_p: float, causal: bool) -> Any:
    """Head dims that are no multiple of 8 are padded, and cut from the result."""
    head_dim = q.shape[-1]
    missing = -hint(head_dim) % 8
    if missing:
        q, k, v = (x.padded(missing) for x in (q, k, v))
    out = SdpaFlash.apply(q, k, v, dropout=dropout_p, causal=causal)
    return out[..., :head_dim] if missing else out


def _bias(q: Tensor, k: Tensor, mask: Tensor | None, backend: str) -> Tensor | None:
    """The mask as numbers, expanded to the scores.

    Efficient attention reads rows that begin at multiples of 8 elements: others are copied, padded (pad_bias).
    """
    mask = _RECORDING.numbers(mask, q.dtype)
    if mask is None:
        return None
    m = mask.shape[-1]
    _, strides, _ = mask.numbers()
    if backend == EFFICIENT and (strides[-1] != 1 or any(step % 8 for step in strides[:-1])):
        mask = mask.padded(8 - hint(m) % 8)[..., :m]  # a full 8 where only other strides are no multiple
    expanded: Tensor = mask.expand(*q.shape[:3], k.shape[2])
    return expanded


def _where(mask: Tensor, dtype: DType) -> Tensor:
    return aten("where", mask, 0.0, -math.inf, dtype=dtype)


_RECORDING = Library(float32, bool_, ones, _where, safe_softmax, dropout)

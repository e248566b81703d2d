"""PyTorch's `scaled_dot_product_attention`: by the backend that it chooses, or by the one named."""

from collections.abc import Collection
from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel.sizes.dims import same
from memmodel_kernels.bias import numbers
from memmodel_kernels.namespace import namespace

BACKENDS = ("flash", "efficient", "cudnn", "math")


def sdpa(
    q: Any,
    k: Any,
    v: Any,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    backends: Collection[str] = BACKENDS,
    bias: Any = None,
) -> Any:
    """One call of it, with the switches of `backends` on. Shapes as for `naive`.

    A causal mask is `is_causal` where queries and keys are as many, which is where both alignments agree; another mask
    is a bool one, which the call makes. A bias (1 or b, 1 or h, n, m), or ALiBi's slopes (h,), is a mask of numbers,
    with -inf where the mask blocks.
    """
    xp = namespace(q)
    n, m = q.shape[-2], k.shape[-2]
    causal = mask.causal and mask.window is None and same(n, m)
    sees_all = mask.causal and mask.window is None and same(n, 1)
    if bias is not None:
        allowed = _with_mask(numbers(bias, q, m), Mask() if sees_all else mask, q, n)
        causal = False
    else:
        allowed = None if causal or sees_all else mask.allowed(xp, q, n, m)
    options = {"dropout_p": dropout, "is_causal": causal, "enable_gqa": not same(q.shape[1], k.shape[1])}
    if xp.__name__ != "torch":
        return xp.scaled_dot_product_attention(q, k, v, allowed, **options, enabled=backends)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kinds = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
             "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}  # fmt: skip
    with sdpa_kernel([kinds[name] for name in backends]):
        return xp.nn.functional.scaled_dot_product_attention(q, k, v, allowed, **options)


def _with_mask(bias: Any, mask: Mask, q: Any, n: Any) -> Any:
    """Numbers to add, -inf where a pair is masked."""
    blocked = mask.blocked(namespace(q), q, n, bias.shape[-1])
    return bias if blocked is None else bias.masked_fill(blocked, float("-inf"))

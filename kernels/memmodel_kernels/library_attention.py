"""The library's own attention in a layer, `scaled_dot_product_attention`, as Hugging Face's classes call it."""

from typing import Any

from memmodel.sizes.dims import same
from memmodel_kernels.namespace import functional


def library_attention(
    q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, causal: bool = True, broadcast: bool = False
) -> Any:
    """Attention of q (b, h, n, d) on k, v (b, g, m, d or e), causal or on all keys; of one query, on all keys.

    `mask`: a bool tensor (b, 1, n, m), true where a key is seen, for a layer whose queries do not see all keys before
    them. Without a mask the heads of a group share their keys; with one these are repeated.
    `broadcast`: a single head of keys is given to the heads of all queries as it is, which plain operators take alone.
    """
    attention = functional(q).scaled_dot_product_attention
    if mask is None and not broadcast:
        shared = not same(k.shape[1], q.shape[1])
        return attention(q, k, v, dropout_p=dropout, is_causal=causal and q.shape[2] != 1, enable_gqa=shared)
    k, v = (k, v) if broadcast else (repeated(k, q), repeated(v, q))
    return attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def repeated(x: Any, q: Any) -> Any:
    """Keys or values (b, g, m, d) repeated to as many heads as q (b, h, n, d) has."""
    b, g, m, d = x.shape
    times = q.shape[1] // g
    if times == 1:
        return x
    return x[:, :, None, :, :].expand(b, g, times, m, d).reshape(b, g * times, m, d)

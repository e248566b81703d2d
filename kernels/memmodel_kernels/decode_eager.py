"""One decoding step by eager operators: a few new queries (one, usually) against a cache of keys and values."""

from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel_kernels.naive import naive


def decode_eager(q: Any, new_k: Any, new_v: Any, k_cache: Any, v_cache: Any, mask: Mask = NO_MASK) -> Any:
    """Write the new keys and values to the end of the caches in place, then attend to everything the mask lets through.

    Where query heads share a key head, the whole cache is repeated. `decode` is how servers do without.

    Shapes: q (b, h, n, d); new_k, new_v (b, g, n, d or e); caches (b, g, m, d or e); returns (b, h, n, e).
    """
    n, m = q.shape[-2], k_cache.shape[-2]
    k_cache.narrow(-2, m - n, n).copy_(new_k)
    v_cache.narrow(-2, m - n, n).copy_(new_v)
    return naive(q, k_cache, v_cache, mask)

"""Attention by plain operators, as `scaled_dot_product_attention` runs it where no fused kernel takes the call.

Written once for recording tensors and for torch's. Source: aten/src/ATen/native/transformers/attention.cpp,
_scaled_dot_product_attention_math, pre_process_group_query_attention_input, convert_boolean_attn_mask.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Library(NamedTuple):
    """The functions and dtypes of a library that are not methods of its tensors.

    Attributes:
        float32, bool: element types. ones: a tensor of ones.
        where: numbers of a dtype for a bool mask, 0 where it is true and -inf elsewhere.
        safe_softmax: over the last dimension, 0 in rows of -inf. dropout: with (tensor, probability, True).
    """

    float32: Any
    bool: Any
    ones: Callable[..., Any]
    where: Callable[[Any, Any], Any]
    safe_softmax: Callable[[Any, int], Any]
    dropout: Callable[[Any, float, bool], Any]

    def numbers(self, mask: Any, dtype: Any) -> Any:
        """A bool mask as numbers to add, in its own shape; another one, or None, as it is."""
        return self.where(mask, dtype) if mask is not None and mask.dtype is self.bool else mask


def plain(
    library: Library, query: Any, key: Any, value: Any, mask: Any, dropout_p: float, causal: bool, gqa: bool
) -> Any:
    """softmax(Q K^T / sqrt(d) + mask) V, half precision in fp32. Locals live as long as C++'s do.

    Shapes: query (b, h, n, d), key (b, g, m, d), value (b, g, m, e), mask up to (b, h, n, m).
    """
    kind = query.dtype
    mask = library.numbers(mask, kind)
    wide = library.float32 if kind.itemsize == 2 else kind
    q, k, v = query.to(wide), key.to(wide), value.to(wide)
    root = 0.5  # the square root of the scale, for both operands: its value changes nothing here
    scaled = q * root
    if causal:
        seen = library.ones(query.shape[-2], key.shape[-2], dtype=library.bool).tril()
        mask = library.numbers(seen, q.dtype)
        del seen
    groups = query.shape[1] // key.shape[1]
    if gqa:
        keys, values = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    else:
        keys, values = k, v
    scores = scaled @ (keys.transpose(-2, -1) * root)
    if mask is not None:
        scores.add_(mask)
    probs = library.safe_softmax(scores, -1)
    del scores
    dropped = library.dropout(probs, dropout_p, True)
    second = dropped.to(kind)  # the operator's second result, which is made before the product
    out = (dropped @ values).to(kind)
    del second
    return out

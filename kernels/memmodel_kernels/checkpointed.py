"""Naive attention under gradient checkpointing: scores exist in forward and again in backward, not in between."""

from typing import Any

from memmodel.masks import NO_MASK, Mask
from memmodel_kernels.naive import naive
from memmodel_kernels.namespace import checkpoint


def checkpointed(
    q: Any, k: Any, v: Any, mask: Mask = NO_MASK, dropout: float = 0.0, bias: Any = None, softcap: float | None = None
) -> Any:
    """`naive`, recomputed in backward. Shapes as for `naive`."""
    if bias is None:
        return checkpoint(lambda a, b, c: naive(a, b, c, mask, dropout, None, softcap), q, k, v)
    return checkpoint(lambda a, b, c, d: naive(a, b, c, mask, dropout, d, softcap), q, k, v, bias)

"""Naive attention under gradient checkpointing: scores exist in forward and again in backward, not in between."""

from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel_kernels.naive import naive
from memmodel_kernels.namespace import checkpoint


def checkpointed(
    q: Any,
    k: Any,
    v: Any,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    bias: Any = None,
    softcap: float | None = None,
    sinks: Any = None,
) -> Any:
    """`naive`, recomputed in backward. Shapes as for `naive`."""
    given = {name: tensor for name, tensor in (("bias", bias), ("sinks", sinks)) if tensor is not None}

    def again(q: Any, k: Any, v: Any, *others: Any) -> Any:
        return naive(q, k, v, mask, dropout, softcap=softcap, **dict(zip(given, others, strict=True)))

    return checkpoint(again, q, k, v, *given.values())

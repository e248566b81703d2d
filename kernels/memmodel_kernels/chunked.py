"""Query-chunked ("memory-efficient") attention: scores of one chunk of queries at a time.

After Rabe and Staats, "Self-attention does not need O(n^2) memory" (2021): each chunk is checkpointed in training.
"""

from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel_kernels.naive import naive
from memmodel_kernels.namespace import checkpoint, namespace, scope


def chunked(q: Any, k: Any, v: Any, mask: Mask = NO_MASK, chunk: Any = 1024) -> Any:
    """Naive attention of `chunk` queries at a time, the results joined.

    Shapes as for `naive`. Under a mask a chunk gets only the keys that one of its queries sees.
    """
    xp = namespace(q)
    n, m = q.shape[-2], k.shape[-2]
    outputs, end = [], m - n
    for number, part in enumerate(q.split(chunk, dim=-2)):
        end = end + part.shape[-2]
        start = 0 if mask.window is None else max(0, end - part.shape[-2] - mask.window + 1)
        keys = (k[:, :, start:end], v[:, :, start:end]) if mask.causal else (k, v)
        with scope(q, layer=number):  # chunks repeat, as layers do
            if part.requires_grad:
                outputs.append(checkpoint(lambda a, b, c: naive(a, b, c, mask), part, *keys))
            else:
                outputs.append(naive(part, *keys, mask))
    return xp.cat(outputs, -2)

"""Relative positions: a learned number a head for each of a few distances, added to the scores (T5).

Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer" (2020), as Hugging
Face's class writes it: half of the buckets are for one distance each, the rest for ranges that widen up to 128.
"""

from math import log
from typing import Any

from memmodel_kernels.namespace import functional, namespace

_FARTHEST = 128  # relative_attention_max_distance: beyond it all distances share a bucket


def distances_bias(table: Any, n: Any, m: Any, causal: bool) -> Any:
    """What is added to the scores of n queries, the last of m keys: (1, h, n, m), from a table (buckets, h)."""
    xp = namespace(table)
    queries = xp.arange(n, device=table.device)[:, None] + (m - n)
    distances = xp.arange(m, device=table.device)[None, :] - queries
    values = functional(table).embedding(_buckets(distances, table.shape[0], causal), table)
    return values.permute(2, 0, 1).unsqueeze(0)


def _buckets(distances: Any, count: int, causal: bool) -> Any:
    """The bucket of each distance of a key from its query; without a mask, half of them are for keys after it."""
    xp, after = namespace(distances), 0
    if causal:
        away = (-distances).clamp(min=0)
    else:
        count //= 2
        after = (distances > 0).to(xp.int64) * count
        away = distances.abs()
    exact = count // 2
    widening = (away.float() / exact).log() / log(_FARTHEST / exact) * (count - exact)
    far = (widening.to(xp.int64) + exact).clamp(max=count - 1)
    return after + xp.where(away < exact, away, far)


def mask_with_bias(bias: Any, causal: bool) -> Any:
    """A mask of numbers (1, h, n, m) for the library's attention: the bias, and what hides later keys.

    Each layer makes its own (create_position_bias_mask of transformers' integrations/sdpa_attention.py).
    """
    n, m = bias.shape[2:]
    if causal and n != 1:
        xp = namespace(bias)
        queries, keys = xp.arange(n, device=bias.device), xp.arange(m, device=bias.device)
        seen = (queries[:, None] >= keys[None, :]).view(1, 1, n, m)
        bias = xp.where(seen, bias, float("-inf"))  # any number that hides
    return bias.contiguous()

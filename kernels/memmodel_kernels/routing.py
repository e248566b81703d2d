"""The router of a mixture of experts: which experts each token goes to, and how much each of them counts.

As transformers' classes write it: Mixtral, Qwen, gpt-oss, and DeepSeek, which first chooses groups of experts.
"""

from collections.abc import Mapping
from typing import Any

from memmodel_kernels.namespace import functional, namespace


def routed(rows: Any, weights: Mapping[str, Any], moe: Any) -> tuple[Any, Any]:
    """The weights and the indices of each row's experts, (rows, top_k); `moe` is a `Mixture`."""
    weight = weights["router.weight"]
    if moe.scores in ("sigmoid", "sigmoid-before"):
        return _by_sigmoid(_in_fp32(rows, weight), moe)
    if moe.scores == "softmax-as-is":
        return _as_they_are(_in_fp32(rows, weight).softmax(-1), moe)
    logits = functional(rows).linear(rows, weight, weights.get("router.bias"))
    if moe.scores == "softmax-of-top-k":
        best, experts = logits.topk(moe.top_k, dim=-1)
        return best.softmax(-1), experts
    best, experts = logits.float().softmax(-1).topk(moe.top_k, dim=-1)
    best /= best.sum(-1, keepdim=True)
    return best.to(logits.dtype) if moe.scores == "softmax-cast" else best, experts


def _in_fp32(rows: Any, weight: Any) -> Any:
    wide = namespace(rows).float32
    return functional(rows).linear(rows.to(wide), weight.to(wide))


def _as_they_are(scores: Any, moe: Any) -> tuple[Any, Any]:
    """The largest probabilities, which need not add up to 1 (DeepSeek-V2)."""
    if moe.groups:
        of_groups = _by_group(scores, moe).max(-1)[0]
        scores = scores.masked_fill(_outside(of_groups, moe), 0.0)
    best, experts = scores.topk(moe.top_k, dim=-1)
    return best * 2.5, experts  # any factor


def _by_sigmoid(logits: Any, moe: Any) -> tuple[Any, Any]:
    """Scores that are chosen by their sum with a bias, which no gradient reaches (DeepSeek-V3)."""
    scores = logits.sigmoid()
    # 0.0 stands for e_score_correction_bias, a number an expert.
    chosen = scores + 0.0
    if moe.groups:
        of_groups = _by_group(chosen, moe).topk(2, dim=-1)[0].sum(-1)
        chosen = chosen.masked_fill(_outside(of_groups, moe), float("-inf"))
    experts = chosen.topk(moe.top_k, dim=-1)[1]
    best = scores.gather(1, experts)
    total = best.sum(-1, keepdim=True) + 1e-20
    best /= total
    return best * 2.5, experts


def _by_group(scores: Any, moe: Any) -> Any:
    return scores.view(-1, moe.groups, moe.experts // moe.groups)


def _outside(of_groups: Any, moe: Any) -> Any:
    """True for the experts outside the best groups, (rows, experts), by a score of each group, (rows, groups)."""
    xp = namespace(of_groups)
    best = of_groups.topk(moe.best_groups, dim=-1)[1]
    inside = xp.zeros_like(of_groups)
    inside.scatter_(1, best, 1)
    of_experts = inside.unsqueeze(-1).expand(-1, -1, moe.experts // moe.groups).reshape(-1, moe.experts)
    return ~of_experts.to(xp.bool)

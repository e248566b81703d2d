"""A mixture whose experts take batches of one size: as many tokens as a capacity allows, or all of them.

With a capacity, tokens beyond it are dropped, those that count least first, and a batch with fewer is padded
(Megatron-LM's --moe-expert-capacity-factor with --moe-pad-expert-input-to-capacity, dropped by probability;
core/transformer/moe/moe_utils.py). Llama 4's class sends every token to every expert (modeling_llama4.py).
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from memmodel.sizes.dims import ceil_div, minimum
from memmodel_kernels.feed_forward import through
from memmodel_kernels.namespace import functional, namespace
from memmodel_kernels.routing import routed


def up_to_capacity(
    rows: Any, weights: Mapping[str, Any], activation: str, moe: Any, factor: float, compiled: bool
) -> Any:
    """The experts' outputs of rows (t, h); each takes `factor` times its even share of the choices, t k / E."""
    scores, experts = routed(rows, weights, moe)
    each = _capacity(rows.shape[0], moe, factor)
    counts = scores.new_zeros(rows.shape[0], moe.experts).scatter(1, experts, scores)
    counts, chosen = counts.topk(each, dim=0)
    del scores, experts
    chosen = chosen.transpose(0, 1).reshape(-1)
    batches = rows[chosen].view(moe.experts, each, rows.shape[1])
    out = _products(batches, weights, activation, compiled)
    out = (out * counts.transpose(0, 1).unsqueeze(-1)).to(rows.dtype)
    return namespace(rows).zeros_like(rows).index_add(0, chosen, out.view(-1, rows.shape[1]))


def _capacity(tokens: Any, moe: Any, factor: float) -> Any:
    share = Fraction(factor).limit_denominator(1000)
    return minimum(ceil_div(tokens * moe.top_k * share.numerator, moe.experts * share.denominator), tokens)


def of_all_tokens(
    rows: Any, weights: Mapping[str, Any], activation: str, moe: Any, shared: Callable[[], Any], compiled: bool
) -> Any:
    """The sum of the experts' outputs of rows (t, h), each times its score before, and of `shared()` (b, n, h)."""
    logits = functional(rows).linear(rows, weights["router.weight"])
    best, experts = logits.topk(moe.top_k, dim=1)
    # 0 stands for -inf, of experts that are not among the best: their scores are 0 then.
    scores = logits.new_zeros(logits.shape).scatter(1, experts, best).float().sigmoid().to(rows.dtype)
    batches = rows.expand(moe.experts, *rows.shape).reshape(-1, rows.shape[1])
    batches = batches * scores.transpose(0, 1).reshape(-1, 1)
    out = _products(batches.view(moe.experts, -1, rows.shape[1]), weights, activation, compiled)
    total = shared()
    total += out.view(moe.experts, *total.shape).sum(0)
    return total


def _products(batches: Any, weights: Mapping[str, Any], activation: str, compiled: bool) -> Any:
    """The experts' outputs of their batches (E, c, h)."""
    hidden = through(batches @ weights["experts.gate_up"].transpose(-2, -1), activation, compiled)
    return hidden @ weights["experts.down"].transpose(-2, -1)

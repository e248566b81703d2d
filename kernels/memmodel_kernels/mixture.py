"""A mixture of experts: a router sends each token to the best few, whose products run grouped, without dropping any.

After transformers' grouped_mm_experts_forward: rows are sorted by expert, multiplied group by group, and sorted back.
Experts with a capacity, and Llama 4's, are in `batched_experts`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from memmodel_kernels.batched_experts import of_all_tokens, up_to_capacity
from memmodel_kernels.feed_forward import feed_forward, through
from memmodel_kernels.namespace import functional, namespace
from memmodel_kernels.parallel.experts import ExpertParallel
from memmodel_kernels.parallel.tensor import TensorParallel
from memmodel_kernels.routing import routed


def mixture(
    x: Any,
    weights: Mapping[str, Any],
    activation: str,
    moe: Any,
    tensor: TensorParallel | None = None,
    shared: ExpertParallel | None = None,
    compiled: bool = False,
    capacity: float = 0.0,
) -> Any:
    """The experts' outputs of x (b, n, h), weighed by the router, and those of the shared experts.

    `moe`: a `memmodel.models.architecture.Mixture`. `tensor`: ranks that share the width of every expert, and of which
    each routes all tokens; `shared`: those that share the experts.
    `compiled`: activations are one kernel. `capacity`: of an expert, over its even share of the tokens; 0 for none.
    """
    if tensor is not None:
        entered = tensor.entered(x)
        return tensor.summed(mixture(entered, weights, activation, moe, None, shared, compiled, capacity))
    rows = x.view(-1, x.shape[-1])
    every = partial(feed_forward, x, weights, activation, "shared", compiled=compiled)
    if moe.scores == "sigmoid-before" and shared is None and not capacity:
        return of_all_tokens(rows, weights, activation, moe, every, compiled)
    before = every() if moe.shared_gate else None  # which wait for the others in Qwen2-MoE's class
    if capacity:
        out = up_to_capacity(rows, weights, activation, moe, capacity, compiled).view(*x.shape)
    else:
        scores, experts = routed(rows, weights, moe)
        products = partial(_products, weights=weights, activation=activation, compiled=compiled)
        out = _experts(rows, products, moe, scores, experts, shared).view(*x.shape)
    if moe.shared:
        if moe.shared_gate:
            out = out + functional(x).linear(x, weights["shared_gate.weight"]).sigmoid() * before
        else:
            out = out + every()
    return out


def _experts(
    rows: Any,
    products: Callable[..., Any],
    moe: Any,
    scores: Any,
    experts: Any,
    shared: ExpertParallel | None,
) -> Any:
    xp = namespace(rows)
    flat_scores = scores.reshape(-1)
    flat_experts = experts.reshape(-1)
    by_expert, order = flat_experts.sort()
    selected = rows[order // moe.top_k]
    scores_sorted = flat_scores[order]
    if shared is None:
        ends = _counts(by_expert, moe.experts).cumsum(0, dtype=xp.int32)
        hidden = products(selected, ends, by_expert=by_expert)
    else:
        hidden = shared.run(selected, _counts(by_expert, moe.experts), products)
    weighed = hidden * scores_sorted.unsqueeze(-1)
    # The inverse permutation.
    back = xp.empty_like(order)
    back.index_put_((order,), xp.arange(order.shape[0], device=rows.device))
    weighed = weighed[back]
    total = weighed.view(rows.shape[0], moe.top_k, rows.shape[1]).sum(1)
    return total.to(rows.dtype)


def _products(
    rows: Any, ends: Any, weights: Mapping[str, Any], activation: str, compiled: bool = False, by_expert: Any = None
) -> Any:
    """The experts' outputs of rows in their order; `by_expert`: which that is of each row, where they have biases."""
    # A row's biases are there before the product, and until the next.
    biases = _biases(weights, "gate_up", by_expert)
    hidden = through(_grouped(rows, weights, "gate_up", ends, biases), activation, compiled)
    biases = _biases(weights, "down", by_expert)
    return _grouped(hidden, weights, "down", ends, biases)


def _counts(by_expert: Any, count: int) -> Any:
    """How many rows each expert has."""
    # The CPU's histc takes no integers.
    counted = by_expert.float() if str(by_expert.device) == "cpu" else by_expert.int()
    return namespace(by_expert).histc(counted, bins=count, min=0, max=count - 1)


def _biases(weights: Mapping[str, Any], name: str, by_expert: Any) -> Any:
    bias = weights.get(f"experts.{name}_bias")
    return None if bias is None else bias[by_expert]


def _grouped(x: Any, weights: Mapping[str, Any], name: str, ends: Any, biases: Any) -> Any:
    out = functional(x).grouped_mm(x, weights[f"experts.{name}"].transpose(-2, -1), offs=ends)
    if biases is not None:
        out.add_(biases)
    return out

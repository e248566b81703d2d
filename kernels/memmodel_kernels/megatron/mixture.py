"""A mixture of experts as Megatron-LM trains it: tokens permuted by expert, exchanged, and multiplied in groups.

Each expert takes as many tokens: its capacity at a factor of 1 (`--moe-pad-expert-input-to-capacity`), which balanced
routing without a capacity has too. Sources: Megatron-LM 0.14, megatron/core/transformer/moe/router.py,
token_dispatcher.py (MoEAlltoAllTokenDispatcher), experts.py (TEGroupedMLP), moe_utils.py and
fusions/fused_bias_swiglu.py (weighted); TransformerEngine 2.11, module/grouped_linear.py and permutation.py.
"""

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

from memmodel_kernels.kernel import fused
from memmodel_kernels.megatron.modules import Sharing, Weight, functions, product
from memmodel_kernels.namespace import namespace
from memmodel_kernels.parallel.group import Group


def mixture(x: Any, weights: Mapping[str, Weight], top_k: int, experts: Group | None, sharing: Sharing) -> Any:
    """The outputs of experts, weighed by the router, and of shared experts, for x (tokens, hidden).

    `experts`: the ranks that share the experts, each of which has as many; None where this one has all.
    """
    f, of_experts = functions(namespace(x)), _functions(namespace(x))
    router, up, down = (weights[name] for name in ("router.weight", "experts.gate_up", "experts.down"))
    capacity = -(-x.shape[0] * top_k // router.value.shape[0])
    probabilities, chosen = of_experts.Router(x, router.value, top_k, capacity)
    rows = of_experts.Permuted(x, chosen)
    ranks, here = (1, up.value.shape[0]) if experts is None else (experts.size, up.value.shape[0])
    # From (rank, expert) to (expert, rank): the rows of one expert lie together for its product.
    rows, probabilities = (_sorted(_sent(y, experts), ranks, here) for y in (rows, probabilities.unsqueeze(1)))
    wide = of_experts.GroupedLinear(rows.view(here, -1, rows.shape[-1]), up.value, up.into)
    del rows
    wide = of_experts.WeighedSwiGLU(wide, probabilities.view(here, -1))
    del probabilities
    rows = of_experts.GroupedLinear(wide, down.value, down.into)
    del wide
    # And back, before they return to their ranks.
    rows = _sent(_sorted(rows.view(-1, rows.shape[-1]), here, ranks), experts)
    out = of_experts.Unpermuted(rows, chosen, x.shape[0])
    del rows, chosen
    if "shared.gate_up.weight" in weights:
        out = out.add_(_shared(x, weights, f, sharing))
    return out


def _shared(x: Any, weights: Mapping[str, Weight], f: Any, sharing: Sharing) -> Any:
    up, down = weights["shared.gate_up.weight"], weights["shared.down.weight"]
    return f.RowLinear(f.SwiGLU(f.Linear(x, up.value, up.into, sharing)), down.value, down.into, sharing)


def _sent(x: Any, group: Group | None) -> Any:
    """Equal pieces of x (rows, channels), exchanged between ranks."""
    return x if group is None else _functions(namespace(x)).Exchanged(x, group)


def _sorted(x: Any, outer: int, inner: int) -> Any:
    """Chunks of rows (outer, inner) in the order (inner, outer)."""
    return x.view(outer, inner, -1, x.shape[-1]).transpose(0, 1).contiguous().view(-1, x.shape[-1])


@cache
def _functions(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class Router(base):  # type: ignore[misc]
        """Probabilities (rows,) in fp32 and tokens (rows,) of the rows that experts take, expert by expert.

        Keeps x, the softmax, in fp32 for the auxiliary loss too, and where each row goes.
        """

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, top_k: int, capacity: int) -> Any:
            tokens, experts = x.shape[0], weight.shape[0]
            logits = product(x, weight.t())
            scores, auxiliary = (x.new_empty(tokens, experts, dtype=xp.float32) for _ in range(2))
            taken = x.new_empty(tokens, experts, dtype=xp.bool)
            # TransformerEngine's row_id_map: the rows of each token, their experts, and how many there are.
            places = x.new_empty(tokens, 2 * experts + 1, dtype=xp.int32)
            chosen = x.new_empty(experts * capacity, dtype=xp.int64)
            probabilities = x.new_empty(experts * capacity, dtype=xp.float32)

            def compute() -> None:
                scores.copy_(logits.float().softmax(-1))
                taken.zero_().scatter_(1, scores.topk(top_k, -1).indices, True)
                # An expert with more tokens than it takes drops those of least probability (drop policy "probs").
                by_expert = (scores * taken).t().topk(capacity, -1)
                chosen.copy_(by_expert.indices.flatten())
                probabilities.copy_(by_expert.values.flatten())

            fused("router", (logits,), (scores, auxiliary, taken, places, chosen, probabilities), compute)
            ctx.save_for_backward(x, weight, scores, auxiliary, taken, places, chosen)
            return probabilities, chosen

        @staticmethod
        def backward(ctx: Any, grad: Any, _: Any) -> Any:
            x, weight, scores, _, taken, _, chosen = ctx.saved_tensors
            of_logits = x.new_empty(scores.shape)

            def compute() -> None:
                experts = weight.shape[0]
                of_scores = xp.zeros_like(scores).t()
                of_scores.scatter_add_(1, chosen.view(experts, -1), grad.view(experts, -1))
                of_scores = of_scores.t() * taken
                of_logits.copy_(scores * (of_scores - (of_scores * scores).sum(-1, keepdim=True)))

            fused("router_backward", (grad, scores, taken, chosen), (of_logits,), compute, gradient=True)
            return product(of_logits, weight), product(of_logits.t(), x), None, None

    class Permuted(base):  # type: ignore[misc]
        """The rows of x (tokens, hidden) that experts take, expert by expert; keeps no rows."""

        @staticmethod
        def forward(ctx: Any, x: Any, chosen: Any) -> Any:
            ctx.save_for_backward(chosen)
            ctx.tokens = x.shape[0]
            return _permuted(x, chosen)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (chosen,) = ctx.saved_tensors
            return _unpermuted(grad, chosen, ctx.tokens), None

    class Unpermuted(base):  # type: ignore[misc]
        """The sum of the rows of each token; keeps no rows."""

        @staticmethod
        def forward(ctx: Any, rows: Any, chosen: Any, tokens: int) -> Any:
            ctx.save_for_backward(chosen)
            return _unpermuted(rows, chosen, tokens)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (chosen,) = ctx.saved_tensors
            return _permuted(grad, chosen), None, None

    class Exchanged(base):  # type: ignore[misc]
        """All-to-all of equal pieces."""

        @staticmethod
        def forward(ctx: Any, x: Any, group: Group) -> Any:
            ctx.group = group
            return _all_to_all(x, group)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return _all_to_all(grad, ctx.group), None

    class GroupedLinear(base):  # type: ignore[misc]
        """x (experts, rows, width) by the weights (experts, features, width): keeps its input."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, into: Any) -> Any:
            ctx.save_for_backward(x, weight)
            ctx.into = into
            return product(x, weight.transpose(1, 2))

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, weight = ctx.saved_tensors
            of_x = product(grad, weight)
            made = product(grad.transpose(1, 2), x, ctx.into)
            return of_x, made if ctx.into is None else None, None

    class WeighedSwiGLU(base):  # type: ignore[misc]
        """silu(first half) * second half of x (experts, rows, 2 f), times a probability a row: keeps both."""

        @staticmethod
        def forward(ctx: Any, x: Any, probabilities: Any) -> Any:
            out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)

            def compute() -> None:
                gate, up = x.chunk(2, -1)
                out.copy_(xp.nn.functional.silu(gate) * up * probabilities[..., None])

            fused("swiglu", (x, probabilities), (out,), compute)
            ctx.save_for_backward(x, probabilities)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, probabilities = ctx.saved_tensors
            of_x, of_probabilities = x.new_empty(x.shape), probabilities.new_empty(probabilities.shape)

            def compute() -> None:
                gate, up = x.chunk(2, -1)
                s = xp.sigmoid(gate)
                of_probabilities.copy_((grad * gate * s * up).sum(-1))
                g = grad * probabilities[..., None]
                of_x.copy_(xp.cat([g * up * s * (1 + gate * (1 - s)), g * gate * s], -1))

            fused("swiglu_backward", (grad, x, probabilities), (of_x, of_probabilities), compute, gradient=True)
            return of_x, of_probabilities

    found = (Router, Permuted, Unpermuted, Exchanged, GroupedLinear, WeighedSwiGLU)
    return SimpleNamespace(**{function.__name__: function.apply for function in found})


def _permuted(x: Any, chosen: Any) -> Any:
    rows = x.new_empty(chosen.shape[0], x.shape[-1])
    fused("permute", (x, chosen), (rows,), lambda: rows.copy_(x[chosen]))
    return rows


def _unpermuted(rows: Any, chosen: Any, tokens: int) -> Any:
    out = rows.new_empty(tokens, rows.shape[-1])
    fused("unpermute", (rows, chosen), (out,), lambda: out.zero_().index_add_(0, chosen, rows))
    return out


def _all_to_all(x: Any, group: Group) -> Any:
    out = x.new_empty(x.shape)
    namespace(x).distributed.all_to_all_single(out, x.contiguous(), group=group.handle)
    return out

"""A mixture of experts as Megatron-LM trains it: tokens permuted by expert, exchanged, and multiplied in groups.

Each expert takes as many tokens: its capacity at a factor of 1 (`--moe-pad-expert-input-to-capacity`), which balanced
routing without a capacity has too. Sources: Megatron-LM 0.14, megatron/core/transformer/moe/router.py,
token_dispatcher.py, experts.py (TEGroupedMLP, SequentialMLP), moe_utils.py, megatron/core/transformer/mlp.py and
fusions/fused_bias_swiglu.py (weighted); TransformerEngine 2.11, module/grouped_linear.py and permutation.py.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from memmodel_kernels.kernel import fused
from memmodel_kernels.megatron.modules import Sharing, Weight, functions, product
from memmodel_kernels.namespace import namespace
from memmodel_kernels.parallel.group import Group, all_gathered, gather_into, reduce_scattered


class Experts(NamedTuple):
    """The ranks that share a mixture, and how tokens come to its experts.

    Attributes:
        ranks: each has as many of the experts; None where this one has all.
        tensor: ranks that share the width of each expert; None where this one has it whole.
        both: the ranks of all these, the sharers of an expert next to each other.
        dispatcher: "alltoall" (tokens go to the ranks of their experts) or "allgather" (all go to all ranks, which pick
            those of their experts). buffer: where the latter gathers them.
        sequential: whether experts run one by one, where one product of all is in groups; each then has weights of its
            own. local: whether their linear layers are Megatron's own.
        in_fp32: whether the router's results are in fp32.
    """

    ranks: Group | None = None
    tensor: Group | None = None
    both: Group | None = None
    dispatcher: str = "alltoall"
    buffer: Any = None
    sequential: bool = False
    local: bool = False
    in_fp32: bool = True


ALONE = Experts()


class Dispatched(NamedTuple):
    """Rows on their way. `held`: what was sent and received.

    `sorted`: makes the rows (experts here, n, hidden) and their probabilities (experts here, n). `back`: of the results
    of these rows, those of this rank's tokens.
    """

    held: Any
    sorted: Callable[[], tuple[Any, Any]]
    back: Callable[[Any], Any]


def mixture(x: Any, weights: Mapping[str, Any], top_k: int, experts: Experts, sharing: Sharing) -> Any:
    """The outputs of experts, weighed by the router, and of shared experts, for x (tokens, hidden)."""
    of_experts, router = _functions(namespace(x)), weights["router.weight"]
    count = router.value.shape[0]
    capacity = -(-x.shape[0] * top_k // count)
    routed = of_experts.Router(x, router.value, top_k, capacity, experts.in_fp32)
    here = count if experts.ranks is None else count // experts.ranks.size
    dispatch: Callable[..., Dispatched] = _by_all_gather if experts.dispatcher == "allgather" else _by_all_to_all
    sent = dispatch(x, *routed, experts, here)
    del routed
    shared = _shared(x, weights, functions(namespace(x)), sharing) if "shared.gate_up.weight" in weights else None
    # What was sent and received is held to the end, by variables of MoELayer.forward.
    rows, probabilities = sent.sorted()
    out = sent.back(_products(rows, probabilities, weights, experts))
    return out if shared is None else out + shared


def _by_all_to_all(x: Any, probabilities: Any, chosen: Any, experts: Experts, here: int) -> Dispatched:
    """Rows go to the ranks of their experts and come back (MoEAlltoAllTokenDispatcher)."""
    f, width, sharers = _functions(namespace(x)), x.shape[-1], experts.tensor
    ranks = (experts.ranks.size if experts.ranks else 1) * (sharers.size if sharers else 1)
    given = f.Permuted(x, chosen), probabilities.unsqueeze(1)
    got = given if experts.ranks is None else tuple(f.Exchanged(y, experts.ranks) for y in given)

    def there() -> tuple[Any, Any]:
        # From (rank, expert) to (expert, rank): the rows of one expert lie together for its product.
        every = got if sharers is None else (f.Gathered(y, sharers, None) for y in got)
        rows, weights = (_sorted(y, ranks, here) for y in every)
        return rows.view(here, -1, width), weights.view(here, -1)

    def back(rows: Any) -> Any:
        rows = _sorted(rows.view(-1, width), here, ranks)
        rows = rows if sharers is None else f.Scattered(rows, sharers)
        rows = rows if experts.ranks is None else f.Exchanged(rows, experts.ranks)
        return f.Unpermuted(rows, chosen, x.shape[0])

    return Dispatched((given, got), there, back)


def _by_all_gather(x: Any, probabilities: Any, chosen: Any, experts: Experts, here: int) -> Dispatched:
    """Every rank has all tokens, and picks those of its experts; sums of results go back.

    After MoEAllGatherTokenDispatcher.
    """
    f, width, both = _functions(namespace(x)), x.shape[-1], experts.both
    whole = x
    if both is not None:
        first, ranks = (experts.ranks.rank * here, experts.ranks.size) if experts.ranks else (0, 1)
        whole = f.Gathered(x, both, experts.buffer)
        by_expert = (y.view(ranks * here, -1) for y in (probabilities, chosen))
        probabilities, chosen = f.Own(*by_expert, both, slice(first, first + here), x.shape[0])

    def there() -> tuple[Any, Any]:
        return f.Permuted(whole, chosen).view(here, -1, width), probabilities.view(here, -1)

    def back(rows: Any) -> Any:
        out = f.Unpermuted(rows.view(-1, width), chosen, whole.shape[0])
        if both is None:
            return out
        return f.Scattered(out.to(probabilities.dtype), both).to(out.dtype)

    return Dispatched((), there, back)


def _products(rows: Any, probabilities: Any, weights: Mapping[str, Any], experts: Experts) -> Any:
    """The results of rows (experts, n, hidden), weighed by probabilities (experts, n), in the order of rows."""
    up, down = weights["experts.gate_up"], weights["experts.down"]
    if experts.sequential:
        parts = rows.view(-1, rows.shape[-1]).split(rows.shape[1]), probabilities.view(-1).split(rows.shape[1])
        outs = [_one(*each, experts.local) for each in zip(*parts, up, down, strict=True)]
        return namespace(rows).cat(outs) if len(outs) > 1 else outs[0]
    of_experts = _functions(namespace(rows))
    wide = of_experts.GroupedLinear(rows, up.value, up.into)
    return of_experts.GroupedLinear(_weighed(wide, probabilities, down.value), down.value, down.into)


def _one(rows: Any, probabilities: Any, up: Weight, down: Weight, local: bool) -> Any:
    """The results of one expert's rows (n, hidden)."""
    f = functions(namespace(rows), local)
    if local:
        wide = f.ColumnLinear(rows, up.value, up.into, None, Sharing(), None)
    else:
        wide = f.Linear(rows, up.value, up.into, Sharing())
    wide = _weighed(wide, probabilities, down.value)
    return f.RowLinear(wide, down.value, down.into, Sharing())


def _weighed(wide: Any, probabilities: Any, down: Any) -> Any:
    """The activation, times a probability a row: one kernel with a gate; else operators of PyTorch."""
    if wide.shape[-1] == 2 * down.shape[-1]:
        return _functions(namespace(wide)).WeighedSwiGLU(wide, probabilities)
    active = functions(namespace(wide)).Gelu(wide)
    return (active * probabilities.unsqueeze(-1)).to(wide.dtype)


def _shared(x: Any, weights: Mapping[str, Weight], f: Any, sharing: Sharing) -> Any:
    up, down = weights["shared.gate_up.weight"], weights["shared.down.weight"]
    return f.RowLinear(f.SwiGLU(f.Linear(x, up.value, up.into, sharing)), down.value, down.into, sharing)


def _sorted(x: Any, outer: int, inner: int) -> Any:
    """Chunks of rows (outer, inner) in the order (inner, outer)."""
    return x.view(outer, inner, -1, x.shape[-1]).transpose(0, 1).contiguous().view(-1, x.shape[-1])


@cache
def _functions(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class Router(base):  # type: ignore[misc]
        """Probabilities (rows,), in fp32 or as x, and tokens (rows,) of the rows that experts take, expert by expert.

        Keeps x, the softmax, in fp32 for the auxiliary loss too, and where each row goes.
        """

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, top_k: int, capacity: int, in_fp32: bool) -> Any:
            tokens, experts = x.shape[0], weight.shape[0]
            logits = product(x, weight.t())
            scores, auxiliary = (x.new_empty(tokens, experts, dtype=xp.float32) for _ in range(2))
            taken = x.new_empty(tokens, experts, dtype=xp.bool)
            # TransformerEngine's row_id_map: the rows of each token, their experts, and how many there are.
            places = x.new_empty(tokens, 2 * experts + 1, dtype=xp.int32)
            chosen = x.new_empty(experts * capacity, dtype=xp.int64)
            probabilities = x.new_empty(experts * capacity, dtype=xp.float32 if in_fp32 else None)

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
            return product(of_logits, weight), product(of_logits.t(), x), None, None, None

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

    class Own(base):  # type: ignore[misc]
        """Probabilities and tokens of the rows that the experts of this rank take, of what every rank has routed."""

        @staticmethod
        def forward(ctx: Any, given: Any, chosen: Any, group: Group, own: slice, tokens: int) -> Any:
            ctx.group, ctx.own, ctx.shape = group, own, given.shape
            every = all_gathered(chosen, group).view(group.size, *chosen.shape)
            every.add_((xp.arange(group.size, device=chosen.device) * tokens)[:, None, None])
            probabilities = all_gathered(given, group).view(group.size, *given.shape)
            return tuple(x[:, own].transpose(0, 1).contiguous().view(-1) for x in (probabilities, every))

        @staticmethod
        def backward(ctx: Any, grad: Any, _: Any) -> Any:
            every = grad.new_zeros(ctx.group.size, *ctx.shape)
            own = every[:, ctx.own]
            own.copy_(grad.view(own.shape[1], own.shape[0], -1).transpose(0, 1))
            return reduce_scattered(every.view(-1, ctx.shape[1]), ctx.group), None, None, None, None

    class Gathered(base):  # type: ignore[misc]
        """The rows of all ranks of a group, in a buffer where there is one."""

        @staticmethod
        def forward(ctx: Any, x: Any, group: Group, buffer: Any) -> Any:
            ctx.group = group
            if buffer is None:
                return all_gathered(x, group)
            gather_into(buffer, x, group)
            return buffer.view(buffer.shape)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return reduce_scattered(grad, ctx.group), None, None

    class Scattered(base):  # type: ignore[misc]
        """The sum over the ranks of a group, of which each has some rows."""

        @staticmethod
        def forward(ctx: Any, x: Any, group: Group) -> Any:
            ctx.group = group
            return reduce_scattered(x, group)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return all_gathered(grad, ctx.group), None

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

    found = (Router, Permuted, Unpermuted, Own, Gathered, Scattered, Exchanged, GroupedLinear, WeighedSwiGLU)
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

"""Ring attention: each rank keeps its queries, while keys and values go around (Liu et al., 2023, arXiv 2310.01889).

Rank r has pieces r and 2W-1-r of a causal sequence (`zigzag`). Of the keys that come from rank s,

    s = r   all queries see them causally,
    s < r   all queries see the early half: the late one lies behind every query,
    s > r   the late half of the queries sees them all.

so that after the first step every rank does half a square of work. Partial results are merged by their log-sum-exp.
In backward the gradients of keys and values go around with them, and are at home after W steps.
"""

from functools import cache
from typing import Any

from memmodel_kernels.namespace import namespace
from memmodel_kernels.parallel.group import Group, start_passing_on
from memmodel_kernels.ring.blocks import block, block_backward


def ring_attention(q: Any, k: Any, v: Any, group: Any = None, causal: bool = True) -> Any:
    """Attention of this rank's queries to the keys of all ranks of `group` (of all processes, unless given).

    Args:
        q: (batch, heads, rows of this rank, head dim); causal, those of `zigzag.shard`.
        k: the keys of the same rows; a group of query heads may share one of theirs.
        v: their values.
        group: a process group of the ranks that share the sequence, or a `memmodel_kernels.parallel.group.Group`.
        causal: whether a query sees only the keys up to its own place.

    Returns the output of this rank's queries, of the shape and type of `q`. Raises ValueError for an odd number of rows
    under a causal mask, whose two halves are pieces of their own.
    """
    if causal and q.shape[2] % 2:
        raise ValueError(f"{q.shape[2]} rows a rank: expected an even number, two pieces of the zigzag")
    xp = namespace(q)
    ring = group if isinstance(group, Group) else _of_processes(xp.distributed, group)
    return _function(xp).apply(q, k.contiguous(), v.contiguous(), ring, causal)


def _of_processes(distributed: Any, group: Any) -> Group:
    group = group or distributed.group.WORLD
    return Group(distributed.get_rank(group), distributed.get_world_size(group), group)


@cache
def _function(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class RingAttention(base):  # type: ignore[misc]
        """Keeps the rank's own queries, keys, values and output, and the log-sum-exp: nothing of the other ranks."""

        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any, ring: Group, causal: bool) -> Any:
            ctx.ring, ctx.causal = ring, causal
            whole = lse = None
            here = [k, v]
            for step in range(ring.size):
                last = step == ring.size - 1
                # Keys travel while attention runs on them.
                coming = None if last else start_passing_on(here, ring)
                part = part_of(ring, step, causal)
                queries, keys, values = _late(q, part), _early(here[0], part), _early(here[1], part)
                out, some = block(queries, keys, values, causal and step == 0)
                if whole is None or lse is None:
                    whole, lse = out.float(), some.float()
                else:
                    _merge(_late(whole, part), _late(lse, part), out, some)
                here = here if coming is None else coming.wait()
            assert whole is not None
            result = whole.to(q.dtype)
            ctx.save_for_backward(q, k, v, result, lse)
            return result

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            q, k, v, out, lse = ctx.saved_tensors
            ring = ctx.ring
            grad, out = grad.contiguous(), out.contiguous()
            dq = xp.zeros_like(q, dtype=xp.float32)
            here = [k, v]
            kept = [xp.zeros_like(x, dtype=xp.float32) for x in here]  # gradients of what is here
            for step in range(ring.size):
                last = step == ring.size - 1
                coming = None if last else start_passing_on(here, ring)
                part = part_of(ring, step, ctx.causal)
                queries, upstream, result, sums = (_late(x, part).contiguous() for x in (q, grad, out, lse))
                keys, values = (_early(x, part).contiguous() for x in here)
                found = block_backward(upstream, queries, keys, values, result, sums, ctx.causal and step == 0)
                _late(dq, part).add_(found[0])
                for total, each in zip(kept, found[1:], strict=True):
                    _early(total, part).add_(each)
                del found
                here = here if coming is None else coming.wait()
                if ring.size > 1:
                    # After the last step too, with which they come home.
                    kept = start_passing_on(kept, ring).wait()
            return dq.to(q.dtype), kept[0].to(k.dtype), kept[1].to(v.dtype), None, None

    return RingAttention


def part_of(ring: Group, step: int, causal: bool) -> str:
    """The share of the keys of the rank `step` places before: "all", "early" keys or "late" queries alone."""
    if not causal or step == 0:
        return "all"
    return "early" if step <= ring.rank else "late"


def _late(x: Any, part: str) -> Any:
    """The rows of the queries that take part: those of the late piece, or all."""
    return x.chunk(2, 2)[1] if part == "late" else x


def _early(x: Any, part: str) -> Any:
    """The rows of the keys that take part: those of the early piece, or all."""
    return x.chunk(2, 2)[0] if part == "early" else x


def _merge(whole: Any, lse: Any, out: Any, some: Any) -> None:
    """Add a block's output to the output so far, in place, weighted by how much of the sum of exponentials each has."""
    total = namespace(lse).logaddexp(lse, some)
    whole.mul_((lse - total).exp_().unsqueeze(-1)).add_(out * (some - total).exp_().unsqueeze(-1))
    lse.copy_(total)

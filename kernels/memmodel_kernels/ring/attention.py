"""Ring attention: each rank keeps its queries, while keys and values go around (Liu et al., 2023, arXiv 2310.01889).

Rank r has pieces r and 2W-1-r of a causal sequence (`zigzag`). Of the keys that come from rank s,

    s = r   all queries see them causally,
    s < r   all queries see the early half: the late one lies behind every query,
    s > r   the late half of the queries sees them all.

so that after the first step every rank does half a square of work. Partial results are merged by their log-sum-exp.
In backward the gradients of keys and values go around with them, and are at home after W steps.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from memmodel_kernels.ring.blocks import block, block_backward


class Ring(NamedTuple):
    """A group of ranks, of which this one sends to the next and receives from the one before."""

    group: Any
    rank: int
    size: int

    def passed_on(self, *tensors: Tensor) -> tuple[list[Any], list[Tensor]]:
        """Begin to send these tensors on; the handles, and the tensors that are being received in their place."""
        received = [torch.empty_like(x) for x in tensors]
        after, before = ((self.rank + step) % self.size for step in (1, -1))
        there, here = (dist.get_global_rank(self.group, rank) for rank in (after, before))
        sends = [dist.P2POp(dist.isend, x, there, self.group) for x in tensors]
        receives = [dist.P2POp(dist.irecv, x, here, self.group) for x in received]
        return dist.batch_isend_irecv([*sends, *receives]), received


def ring_attention(q: Tensor, k: Tensor, v: Tensor, group: Any = None, causal: bool = True) -> Tensor:
    """Attention of this rank's queries to the keys of all ranks of `group` (of all processes, unless given).

    Args:
        q: (batch, heads, rows of this rank, head dim); causal, those of `zigzag.shard`.
        k: the keys of the same rows.
        v: their values.
        group: a process group of the ranks that share the sequence.
        causal: whether a query sees only the keys up to its own place.

    Returns the output of this rank's queries, of the shape and type of `q`. Raises ValueError for an odd number of rows
    under a causal mask, whose two halves are pieces of their own.
    """
    if causal and q.shape[2] % 2:
        raise ValueError(f"{q.shape[2]} rows a rank: expected an even number, two pieces of the zigzag")
    group = group or dist.group.WORLD
    ring = Ring(group, dist.get_rank(group), dist.get_world_size(group))
    attention: Any = _RingAttention.apply
    result: Tensor = attention(q, k.contiguous(), v.contiguous(), ring, causal)
    return result


class _RingAttention(torch.autograd.Function):
    """Keeps the rank's own queries, keys, values and output, and the log-sum-exp: nothing of the other ranks."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ring: Ring, causal: bool) -> Tensor:
        ctx.ring, ctx.causal = ring, causal
        whole = lse = None
        here = k, v
        for step in range(ring.size):
            last = step == ring.size - 1
            works, coming = ([], []) if last else ring.passed_on(*here)
            part = part_of(ring, step, causal)
            queries, keys, values = _late(q, part), _early(here[0], part), _early(here[1], part)
            out, some = block(queries, keys, values, causal and step == 0)
            if whole is None or lse is None:
                whole, lse = out.float(), some.float()
            else:
                _merge(_late(whole, part), _late(lse, part), out, some)
            for work in works:
                work.wait()
            here = here if last else (coming[0], coming[1])
        assert whole is not None
        result = whole.to(q.dtype)
        ctx.save_for_backward(q, k, v, result, lse)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        ring = ctx.ring
        grad, out = grad.contiguous(), out.contiguous()
        dq = torch.zeros_like(q, dtype=torch.float32)
        here = k, v
        kept = tuple(torch.zeros_like(x, dtype=torch.float32) for x in here)  # gradients of what is here
        for step in range(ring.size):
            last = step == ring.size - 1
            works, coming = ([], []) if last else ring.passed_on(*here)
            part = part_of(ring, step, ctx.causal)
            queries, upstream, result, sums = (_late(x, part).contiguous() for x in (q, grad, out, lse))
            keys, values = (_early(x, part).contiguous() for x in here)
            found = block_backward(upstream, queries, keys, values, result, sums, ctx.causal and step == 0)
            _late(dq, part).add_(found[0])
            for total, each in zip(kept, found[1:], strict=True):
                _early(total, part).add_(each)
            del found
            for work in works:
                work.wait()
            here = here if last else (coming[0], coming[1])
            if ring.size > 1:
                works, coming = ring.passed_on(*kept)
                for work in works:
                    work.wait()
                kept = tuple(coming)
        return dq.to(q.dtype), kept[0].to(k.dtype), kept[1].to(v.dtype), None, None


def part_of(ring: Ring, step: int, causal: bool) -> str:
    """What takes part with the keys of the rank `step` places before: "all", "early" keys or "late" queries."""
    if not causal or step == 0:
        return "all"
    return "early" if step <= ring.rank else "late"


def _late(x: Tensor, part: str) -> Tensor:
    """The rows of the queries that take part: those of the late piece, or all."""
    return x.chunk(2, 2)[1] if part == "late" else x


def _early(x: Tensor, part: str) -> Tensor:
    """The rows of the keys that take part: those of the early piece, or all."""
    return x.chunk(2, 2)[0] if part == "early" else x


def _merge(whole: Tensor, lse: Tensor, out: Tensor, some: Tensor) -> None:
    """Add a block's output to the output so far, in place, weighted by how much of the sum of exponentials each has."""
    total = torch.logaddexp(lse, some)
    whole.mul_((lse - total).exp_()[..., None]).add_(out * (some - total).exp_()[..., None])
    lse.copy_(total)

"""flex_attention as torch.compile runs it on CUDA: fused kernels, whose rules are in `memmodel.rules.flex`.

An operator takes tensors and numbers: what the block mask leaves is handed to its rule by a place in a table.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from memmodel.rules import flex
from memmodel.rules.flex import Visits
from memmodel.rules.operator import Call, Steps, rule

_VISITS: dict[Visits, int] = {}


def flex_attention(
    q: Tensor, k: Tensor, v: Tensor, visited: Visits, captured: Sequence[Tensor], mask: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The output (b, h, n, e) and the log-sum-exp (b, h, n); heads of q share those of k and v (b, g, m, ...).

    `captured`: tensors that the score and mask functions read, which may learn. `mask`: the block mask's own.
    """
    place = _VISITS.setdefault(visited, len(_VISITS))
    out: tuple[Tensor, Tensor] = FlexAttention.apply(q, k, v, place, *captured, *mask)  # type: ignore[no-untyped-call]
    return out


@torch.library.custom_op("memmodel_trace::_flex_attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, read: Sequence[Tensor], visited: int) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("without data alone")


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, read: Sequence[Tensor], visited: int) -> tuple[Tensor, Tensor]:
    shape = (*q.shape[:3], v.shape[3])
    # The output's strides follow the query's (torch/_inductor/kernel/flex/flex_attention.py, out_strides).
    out = torch.empty_like(q) if q.shape[3] == v.shape[3] else q.new_empty(shape)
    return out, q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("memmodel_trace::_flex_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, read: Sequence[Tensor],
    learned: Sequence[Tensor], visited: int,
) -> list[Tensor]:  # fmt: skip
    raise NotImplementedError("without data alone")


@_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, read: Sequence[Tensor],
    learned: Sequence[Tensor], visited: int,
) -> list[Tensor]:  # fmt: skip
    # Keys that sequences share get a gradient for each, summed later; the value's is made first (same file, backward).
    of_v, of_k = (x.new_empty((q.shape[0], *x.shape[1:])) if x.shape[0] != q.shape[0] else x for x in (v, k))
    return [torch.empty_like(x) for x in (q, of_v, of_k, *learned)]


@rule("_flex_attention")
def forward(call: Call) -> Steps:
    """The rule of the recorded operator."""
    yield from flex.forward(_with_visits(call))


@rule("_flex_attention_backward")
def backward(call: Call) -> Steps:
    """The rule of the recorded operator's backward."""
    yield from flex.backward(_with_visits(call))


def _with_visits(call: Call) -> Call:
    visited = list(_VISITS)[call.named["visited"]]
    return call._replace(named={**call.named, "visited": visited})


class FlexAttention(torch.autograd.Function):
    """The kernels; keeps operands, output, log-sum-exp, what the functions read and the block mask's tensors."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, visited: int, *read: Tensor) -> tuple[Tensor, Tensor]:
        """The output and the log-sum-exp, by one kernel."""
        out, lse = torch.ops.memmodel_trace._flex_attention(q, k, v, read, visited)
        ctx.save_for_backward(q, k, v, out, lse, *read)
        ctx.visited = visited
        # Without it zeros would be made for the log-sum-exp, whose gradient is seldom asked for.
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the operands and of what was read and learns."""
        q, k, v, out, lse, *read = ctx.saved_tensors
        grad = torch.zeros_like(out) if grad is None else grad
        learning = [i for i in range(len(read)) if ctx.needs_input_grad[4 + i]]
        dq, dv, dk, *learned = torch.ops.memmodel_trace._flex_attention_backward(
            grad, q, k, v, out, lse, read, [read[i] for i in learning], ctx.visited
        )
        dk, dv = (x if x.shape == y.shape else x.sum(0, keepdim=True) for x, y in ((dk, k), (dv, v)))
        found = dict(zip(learning, learned, strict=True))
        return dq, dk, dv, None, *map(found.get, range(len(read)))

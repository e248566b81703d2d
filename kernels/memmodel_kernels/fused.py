"""Pointwise functions after torch.compile: on torch the real thing, on recording tensors a model of the compiler.

Each is one kernel forward, and one backward that computes it again: autograd keeps inputs alone. Inductor also fuses a
function with the sum or the cast beside it, and its partitioner may keep a result in place of an input; neither is
modelled.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from memmodel_kernels.kernel import kernel
from memmodel_kernels.namespace import namespace


def fused(function: Callable[..., Any], *inputs: Any, results: int = 1, kept: Sequence[int] | None = None) -> Any:
    """`function(*inputs)`, whose results (`results` of them) are like its first inputs.

    `kept`: the places of the inputs that the gradient depends on; None for all.
    """
    xp = namespace(inputs[0])
    if xp.__name__ == "torch":
        return xp.compile(function)(*inputs)
    return _function(xp).apply(function, results, tuple(range(len(inputs))) if kept is None else tuple(kept), *inputs)


@cache
def _function(xp: Any) -> Any:
    class Fused(xp.Function):  # type: ignore[misc]
        """A function in one kernel, and its gradient in another."""

        @staticmethod
        def forward(ctx: Any, function: Any, results: int, kept: Sequence[int], *inputs: Any) -> Any:
            made = [xp.empty_like(x) for x in inputs[:results]]
            with kernel(function.__name__, reads=inputs, writes=made):
                function(*inputs)
            ctx.save_for_backward(*(inputs[place] for place in kept))
            ctx.computed, ctx.kept, ctx.count = function, kept, len(inputs)
            return tuple(made) if results > 1 else made[0]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            kept = dict(zip(ctx.kept, ctx.saved_tensors, strict=True))
            ctx.maybe_clear_saved_tensors()
            needed = ctx.needs_input_grad[-ctx.count :]
            like = [kept[place] if place in kept else grads[place] for place in range(ctx.count)]
            made = [xp.empty_like(x) if needs else None for x, needs in zip(like, needed, strict=True)]
            reads, writes = [*grads, *kept.values()], [x for x in made if x is not None]
            with kernel(f"{ctx.computed.__name__}_backward", reads=reads, writes=writes, gradient=True):
                for _ in range(2):  # the function again, and its derivatives: about as much arithmetic
                    ctx.computed(*like)
            return None, None, None, *made

    return Fused

"""A step of a pipeline stage: what it holds of each micro-batch.

Source: Megatron-LM 0.14, megatron/core/pipeline_parallel/schedules.py (forward_backward_pipelining_without_interleaving
and _with_interleaving, backward_step, deallocate_output_tensor).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memmodel.models.schedule import Action
from memmodel_kernels.megatron.gpt import Gpt, embedded, finish, loss, through_layers
from memmodel_kernels.namespace import next_action


class Chunk(NamedTuple):
    """Neighbouring layers of a stage; `first`: from the embedding on. `last`: to the loss."""

    model: Gpt
    first: bool
    last: bool


def run(
    chunks: Sequence[Chunk], order: Sequence[Action], batch: tuple[Any, Any], like: Any, mark: Callable[[str], None]
) -> None:
    """Forwards and backwards of one step in an order; `like`: (tokens of this rank, hidden), what stages exchange.

    An output is let go of once it is sent, but for one element. The gradient of an input is held until the next.
    """
    alone = all(chunk.first and chunk.last for chunk in chunks)
    waiting: list[list[tuple[Any, Any]]] = [[] for _ in chunks]
    tokens, targets = batch
    started, sent = set[str](), None
    for action in order:
        # A stage alone runs one micro-batch after the other, each with its phases.
        if action.kind not in started or alone:  # several in flight are one forward and one backward
            mark("forward" if action.kind == "F" else "backward")
            started.add(action.kind)
        next_action(tokens)
        model, first, last = chunks[action.chunk]
        if action.kind == "F":
            # A leaf, whose gradient goes to the stage before.
            given = None if first else like.new_empty(like.shape).requires_grad_()
            x = through_layers(model, embedded(model, tokens) if first else given)
            out = loss(model, x, targets) if last else x
            waiting[action.chunk].append((given, out))
            if not last:
                _shrink(out)
            del x, out, given
            continue
        given, out = waiting[action.chunk].pop(0)
        if last:
            out.backward()
        else:
            out.backward(like.new_empty(like.shape))  # the gradient that the stage after sends
        # Held until the next assignment, as input_tensor_grad there.
        sent = None if first else given.grad
        del given, out
    del sent
    for model, *_ in chunks:
        finish(model)


def _shrink(out: Any) -> None:
    """Let go of an output's memory: only its graph is needed."""
    out.untyped_storage().resize_(0)

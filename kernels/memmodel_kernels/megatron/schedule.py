"""The order of micro-batches through a pipeline stage, and what a stage holds of them.

Source: Megatron-LM 0.14, megatron/core/pipeline_parallel/schedules.py
(forward_backward_pipelining_without_interleaving, backward_step, deallocate_output_tensor).
"""

from collections.abc import Callable
from typing import Any

from memmodel_kernels.megatron.gpt import Gpt, embedded, loss, through_layers


def one_forward_one_backward(stage: int, stages: int, micro_batches: int) -> str:
    """The order of forwards (F) and backwards (B) on a stage, counted from 0."""
    ahead = min(stages - stage - 1, micro_batches)
    return "F" * ahead + "FB" * (micro_batches - ahead) + "B" * ahead


def run(
    model: Gpt, order: str, stage: int, stages: int, batch: tuple[Any, Any], like: Any, mark: Callable[[str], None]
) -> None:
    """Forwards and backwards of one step in an order; `like`: (tokens of this rank, hidden), what stages exchange.

    An output is let go of once it is sent, but for one element. The gradient of an input is held until the next.
    """
    last, waiting, sent = stage == stages - 1, list[tuple[Any, Any]](), None
    tokens, targets = batch
    for place, action in enumerate(order):
        if order[:place].count(action) == 0 or stages == 1:  # several in flight are one forward and one backward
            mark("forward" if action == "F" else "backward")
        if action == "F":
            given = like.new_empty(like.shape).requires_grad_() if stage else None
            x = through_layers(model, embedded(model, tokens) if given is None else given)
            out = loss(model, x, targets) if last else x
            waiting.append((given, out))
            if not last:
                _shrink(out)
            del x, out, given
            continue
        given, out = waiting.pop(0)
        if last:
            out.backward()
        else:
            out.backward(_received(out, like))
        sent = None if given is None else given.grad
        del given, out
    del sent


def _received(out: Any, like: Any) -> Any:
    """The gradient of an output, from the stage after."""
    return like.new_empty(like.shape)


def _shrink(out: Any) -> None:
    """Let go of an output's memory: only its graph is needed."""
    out.untyped_storage().resize_(0)

"""A training step: forward, backward, and the optimizer's update."""

from collections.abc import Callable, Sequence
from typing import Any

from memmodel_kernels.decoder import Decoder, hidden_states
from memmodel_kernels.namespace import namespace
from memmodel_kernels.optimizers import Optimizer, States

Loss = Callable[[Decoder, Any, Any], Any]
Batch = tuple[Any, Any]  # token indices (b, n), and the indices of the tokens that follow them


def training_step(
    model: Decoder,
    parameters: Sequence[Any],
    optimizer: Optimizer,
    states: States,
    batches: Sequence[Batch],
    loss: Loss,
    mark: Callable[[str], None],
    clip: bool = False,
) -> None:
    """One step over micro-batches; gradients are set to None at its end. `mark` is told where its phases begin."""
    for tokens, targets in batches:
        mark("forward")
        value = loss(model, hidden_states(model, tokens), targets)
        mark("backward")
        value.backward()
    mark("optimizer")
    with namespace(value).no_grad():
        gradients = [parameter.grad for parameter in parameters]
        if clip:
            clip_by_norm(gradients)
        optimizer.update(parameters, gradients, *states)
        del gradients
    mark("after")
    del value
    for parameter in parameters:
        parameter.grad = None


def clip_by_norm(gradients: Sequence[Any], most: float = 1.0) -> None:
    """Scale gradients in place so that their norm is at most `most` (torch/nn/utils/clip_grad.py, on lists)."""
    xp = namespace(gradients[0])
    norms = xp._foreach_norm(gradients, 2.0)
    total = xp.linalg.vector_norm(xp.stack([norm.to(gradients[0].device) for norm in norms]), 2.0)
    factor = most / (total + 1e-6)
    xp._foreach_mul_(gradients, xp.clamp(factor, max=1.0))

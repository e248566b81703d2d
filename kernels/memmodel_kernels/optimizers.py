"""Optimizers as operations on parameters, gradients and states, as torch.optim runs them.

Step counters are numbers on the host. Updates change parameters and states in place, without autograd.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memmodel_kernels.namespace import namespace, same_scope

Tensors = Sequence[Any]
States = Sequence[Tensors]  # for each kind of state, that of each parameter


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes:
        title: for people.
        states: makes the states of a parameter, one of each kind.
        update: takes parameters, gradients and the states of each kind, as lists.
    """

    title: str
    states: Callable[[Any], tuple[Any, ...]]
    update: Callable[..., None]

    def fresh(self, parameters: Tensors) -> States:
        """States of every parameter, as the first step makes them."""
        made = []
        for parameter in parameters:
            with same_scope(parameter):
                made.append(self.states(parameter))
        return list(zip(*made, strict=True))


def _moments(parameter: Any) -> tuple[Any, ...]:
    return parameter.new_zeros(parameter.shape), parameter.new_zeros(parameter.shape)


def adamw_foreach(parameters: Tensors, gradients: Tensors, first: Tensors, second: Tensors) -> None:
    """AdamW on lists (_multi_tensor_adam of torch/optim/adam.py): the root of every second moment exists at once."""
    xp = namespace(parameters[0])
    xp._foreach_mul_(parameters, 0.999)
    xp._foreach_lerp_(first, gradients, 0.1)
    xp._foreach_mul_(second, 0.999)
    xp._foreach_addcmul_(second, gradients, gradients, 0.001)
    roots = xp._foreach_sqrt(second)
    xp._foreach_div_(roots, 0.5)
    xp._foreach_add_(roots, 1e-8)
    xp._foreach_addcdiv_(parameters, first, roots, -0.001)


OPTIMIZERS = {
    "adamw": Optimizer("AdamW on lists (PyTorch's default)", _moments, adamw_foreach),
}

"""Values for the tensors of a model that ranks share, by name: all ranks and one process alone take the same."""

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def filled(values: Callable[[str, Tensor], Tensor], found: Tensors) -> Callable[[Tensor, str, str], None]:
    """A label that gives every named tensor its values, and remembers it."""

    def label(x: Tensor, name: str, _: str) -> None:
        if name:
            with torch.no_grad():
                x.copy_(values(name, x))
            found[name] = x

    return label


def drawn(name: str, x: Tensor, vocabulary: int) -> Tensor:
    """Random numbers; tokens below the vocabulary's size; and fixed frequencies of rotary positions."""
    if name == "frequencies":
        return torch.arange(1, 1 + len(x)) / 10
    if not x.dtype.is_floating_point:
        return torch.randint(0, vocabulary, x.shape)
    return torch.randn(x.shape) / 5

"""Alike layers of a model: how many there are, and the model with some of them alone."""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from memmodel.tracer.private.dispatch import children_of
from memmodel.tracer.watch.modules import held


def alike_layers(function: Any) -> int:
    """How many alike layers the modules that a function reaches have; 0 for none."""
    return max(map(len, _stacks(function)), default=0)


def _stacks(function: Any) -> list[dict[str, nn.Module]]:
    """The children of containers of alike layers; where their numbers differ, of those with the most elements."""
    by_number: dict[int, list[dict[str, nn.Module]]] = defaultdict(list)
    seen: set[int] = set()
    for _, module in held(function):
        for part in module.modules() if isinstance(module, nn.Module) else ():
            children = children_of(part)
            if id(part) not in seen and len(children) > 1 and _are_alike(children.values()):
                by_number[len(children)].append(children)
            seen.add(id(part))
    return max(by_number.values(), key=_elements, default=[])


def _are_alike(modules: Collection[nn.Module]) -> bool:
    """Whether the modules are of one class, and their tensors have the same names, shapes and types."""
    # Classes first: going through the tensors of every part of a large model takes a second.
    return len(set(map(type, modules))) == 1 and len(set(map(_tensors, modules))) == 1


def _tensors(module: nn.Module) -> Hashable:
    tensors = (*module.named_parameters(), *module.named_buffers())
    return tuple((name, tuple(x.shape), x.dtype, x.requires_grad) for name, x in tensors)


def _elements(stacks: list[dict[str, nn.Module]]) -> int:
    return sum(x.numel() for children in stacks for module in children.values() for x in module.parameters())


@contextmanager
def with_layers(function: Any, kept: int | None) -> Iterator[None]:
    """Within, the first `kept` of alike layers are all that there is, to optimizers too; None: nothing is changed."""
    if kept is None:
        yield
        return
    stacks = _stacks(function)
    optimizers = [each for _, each in held(function) if isinstance(each, torch.optim.Optimizer)]
    before = {id(x) for children in stacks for module in children.values() for x in module.parameters()}
    with ExitStack() as stack:
        for children in stacks:
            stack.callback(_restore, children, dict(children))
            for name in list(children)[kept:]:
                del children[name]
        remaining = {id(x) for children in stacks for module in children.values() for x in module.parameters()}
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            stack.callback(group.__setitem__, "params", group["params"])
            # Weights that a remaining layer shares stay.
            group["params"] = [x for x in group["params"] if id(x) not in before - remaining]
        yield


def _restore(children: dict[str, nn.Module], before: dict[str, nn.Module]) -> None:
    children.clear()
    children.update(before)

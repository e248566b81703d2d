"""Alike layers of a model: how many there are, and the model with some of them alone."""

import weakref
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count, pairwise
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn

from memmodel.events.program import Alloc
from memmodel.tracer.private.dispatch import children_of
from memmodel.tracer.watch.modules import held
from memmodel.tracer.watch.watcher import Watcher

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class Unlike(Exception):  # noqa: N818 (no error: the run is then made whole)
    """AlikeLayers do not differ as they would have to for a few of them to tell of the rest."""


class AlikeLayers(NamedTuple):
    """The alike layers of a model.

    Attributes:
        number: how many there are; 0 for none.
        stacks: of a script, which of the containers that it makes while it is loaded have them.
        kept: how many of them stay; None: all.
    """

    number: int = 0
    stacks: tuple[int, ...] = ()
    kept: int | None = None


def alike_layers(function: Any) -> AlikeLayers:
    """Those of the modules that a function reaches."""
    return AlikeLayers(max(map(len, _stacks(function)), default=0))


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


class Building:
    """The modules that a script makes while it is loaded; of alike layers all are made, and the first few stay.

    What the others allocated is taken back: the script goes on as that of a model without them would.
    """

    def __init__(self, watcher: Watcher, layers: AlikeLayers) -> None:
        self._watcher, self._asked = watcher, layers
        self._begun: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # at how many events
        self._containers: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # in order
        self._numbers = count()
        self._offered: dict[int, list[_Offered]] = {number: [] for number in layers.stacks}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, modules are made. Raises Unlike where layers that do not stay are used, or were not made alike."""
        init, add = nn.Module.__init__, nn.Module.add_module

        def begun(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            init(module, *args, **kwargs)
            self._begun[module] = len(self._watcher.events)

        def added(container: nn.Module, name: str, module: Any) -> None:
            if not (isinstance(container, _CONTAINERS) and self._leaves_out(container, module)):
                add(container, name, module)

        with mock.patch.object(nn.Module, "__init__", begun), mock.patch.object(nn.Module, "add_module", added):
            yield
        if self._asked.kept is not None:
            # From the last stack on: what is taken back moves the events behind it.
            for offered in sorted(self._offered.values(), key=lambda offered: -offered[0].begun if offered else 0):
                self._take_back(offered)

    def layers(self, function: Any) -> AlikeLayers:
        """The alike layers of what was loaded, some of which another load can leave out."""
        if any(isinstance(module, nn.parallel.DistributedDataParallel) for _, module in held(function)):
            return AlikeLayers()  # a bucket holds gradients of several layers
        stacks = _stacks(function)
        numbers = {id(children_of(container)): number for container, number in self._containers.items()}
        if not stacks or not all(id(children) in numbers for children in stacks):
            return AlikeLayers()
        return AlikeLayers(len(stacks[0]), tuple(numbers[id(children)] for children in stacks))

    def _leaves_out(self, container: nn.Module, module: nn.Module) -> bool:
        number = self._containers.get(container)
        if number is None:
            number = self._containers[container] = next(self._numbers)
        if self._asked.kept is None or number not in self._offered:
            return False
        self._offered[number].append(_Offered(weakref.ref(module), self._begun.get(module, -1)))
        return len(self._offered[number]) > self._asked.kept

    def _take_back(self, offered: "list[_Offered]") -> None:
        """Take back the events of layers that do not stay: of each as many, and like those of the last that stays."""
        kept, begun = self._asked.kept or 0, [layer.begun for layer in offered]
        if len(offered) != self._asked.number or any(layer.module() is not None for layer in offered[kept:]):
            raise Unlike
        length = begun[1] - begun[0]
        if -1 in begun or any(after - before != length for before, after in pairwise(begun)):
            raise Unlike
        rounds = [self._watcher.events[start : start + length] for start in begun[kept - 1 :]]
        if any(_signs(each) != _signs(rounds[0]) for each in rounds) or not all(map(_closed, rounds)):
            raise Unlike
        self._watcher.take_back(begun[kept], begun[-1] + length)


class _Offered(NamedTuple):
    """A layer that a container is given, and at how many events it began to be made; -1: where that is not known."""

    module: weakref.ref[nn.Module]
    begun: int


def _signs(events: Sequence[Any]) -> list[Any]:
    """Events whatever the storages that they name."""
    return [(type(event), event._replace(key=0) if hasattr(event, "key") else event) for event in events]


def _closed(events: Sequence[Any]) -> bool:
    """Whether events are about storages that are born in them alone."""
    born = {event.key for event in events if isinstance(event, Alloc)}
    return all(event.key in born for event in events if hasattr(event, "key"))

"""The parameter or constant that each storage and kernel of a step comes from: its owner.

The owner of a result is the named tensor among its operands, else the owner of the first operand that has one: the
latest parameter on the way. Operators on lists do so element by element.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from memmodel.base.device import Device
from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.tracer.operators import work_of
from memmodel.tracer.private.dispatch import name_of, tensors_in
from memmodel.tracer.watch.storages import Storages

_ON_LISTS = ("_foreach", "_fused_adam")


class Owners:
    """The owners of storages and kernels.

    Attributes:
        given: the function's inputs, which own nothing.
        of: storage -> the named storage it comes from. launches: the same for each kernel, in order.
        parts: number of a kernel on lists -> work and owner of each element, where its sizes are plain numbers.
    """

    def __init__(self, storages: Storages, device: Device) -> None:
        self.storages = storages
        self.device = device
        self.given: set[int] = set()
        self.of: dict[int, int] = {}
        self.launches: list[int | None] = []
        self.parts: dict[int, list[tuple[Work, int | None]]] = {}

    def note(self, func: Any, args: Any, out: Any, born: Sequence[int], events: Iterable[Any]) -> None:
        """Note an operator's results and kernels."""
        kernels = [event for event in events if isinstance(event, Launch)]
        elements = _elements(args) if any(kind in name_of(func) for kind in _ON_LISTS) else []
        # One kernel updates all layers' parameters: formulas in the number of layers need each one's share.
        if elements:
            self._note_elements(func, elements, out, born)
        owner = self._owner(args)
        self.launches += [owner] * len(kernels)
        if not elements:
            self._set(born, owner)

    def take_back(self, first: int, end: int) -> None:
        """Forget the kernels from one number to another."""
        del self.launches[first:end]
        kept = ((number, parts) for number, parts in self.parts.items() if not first <= number < end)
        self.parts = {number - (end - first) * (number >= end): parts for number, parts in kept}

    def _note_elements(self, func: Any, elements: Sequence[Any], out: Any, born: Sequence[int]) -> None:
        owners = [self._owner(each) for each in elements]
        made = out if isinstance(out, list | tuple) and len(out) == len(elements) else [None] * len(elements)
        for each, owner in zip(made, owners, strict=True):
            key = self.storages.key_of(each) if isinstance(each, Tensor) else None
            self._set([key] if key in born else [], owner)
        works = [
            work_of(func, each, {}, None if x is None else [x], self.device)
            for each, x in zip(elements, made, strict=True)
        ]
        if all(isinstance(work.hbm_bytes, int) for work in works):
            self.parts[len(self.launches)] = list(zip(works, owners, strict=True))

    def _set(self, keys: Iterable[int | None], owner: int | None) -> None:
        if owner is not None:
            self.of.update((key, owner) for key in keys if key is not None)

    def _owner(self, args: Any) -> int | None:
        keys = [self.storages.key_of(x) for x in tensors_in(args)]
        named = next((key for key in keys if key in self.storages.names and key not in self.given), None)
        # Keys begin at 1, so that none is taken for None.
        return named or next((self.of[key] for key in keys if key in self.of), None)


def _elements(args: Any) -> list[Any]:
    """The arguments of an operator on lists, once for each element; none where there is only one."""
    length = len(args[0]) if args and isinstance(args[0], list | tuple) else 0
    if length < 2:
        return []
    return [
        [[given[i]] if isinstance(given, list | tuple) and len(given) == length else given for given in args]
        for i in range(length)
    ]

"""The group of each storage of a run: parameters, optimizer state, activations of a module, logits, KV cache.

Parameters are known as such, states by the optimizer that holds them after its step, modules by PyTorch's own hooks.
Logits are what has a loss's number of classes in its last dimension, caches what a class or file of that name makes.
"""

import re
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from memmodel.events.groups import ACTIVATIONS, GRADIENTS, KV_CACHE, LOGITS, OPTIMIZER, PARAMETERS
from memmodel.events.origin import wildcard
from memmodel.events.program import Alloc, Event, Save, Site
from memmodel.tracer.private.dispatch import name_of, tensors_in
from memmodel.tracer.watch.storages import Storages

_FEWEST_CLASSES = 32  # of logits that are worth a group
_CACHE = re.compile("cache", re.IGNORECASE)
_CASTS = ("_to_copy", "copy")


class Belonging:
    """Notes of a run, from which the groups of `memmodel.events.groups` follow.

    Attributes:
        said: storage -> its group, where it is known by itself.
        made_in: storage -> the module that made it.
        kept: storages alive when a backward began, or that modules made again in it.
    """

    def __init__(self, storages: Storages) -> None:
        self.storages = storages
        self.said: dict[int, str] = {}
        self.made_in: dict[int, str] = {}
        self.kept: set[int] = set()
        self._stack: list[str] = []
        self._places: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
        self._parameters: dict[int, weakref.ref[Tensor]] = {}
        self._classes: set[int] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, modules and optimizers are followed."""
        hooks = (
            register_module_forward_pre_hook(self._enters),
            # Also after an exception: a checkpoint leaves layers by one (torch/utils/checkpoint.py, early_stop).
            register_module_forward_hook(self._leaves, always_call=True),
            register_optimizer_step_post_hook(self._stepped),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enters(self, module: torch.nn.Module, _: Any) -> None:
        if module not in self._places:  # a checkpoint calls a layer again without what is around it
            self._places.update((part, place_of(name)) for name, part in module.named_modules())
        self._stack.append(self._places[module])

    def _leaves(self, *_: Any) -> None:
        self._stack.pop()

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self.parameter(parameter)
        for x in tensors_in(list(optimizer.state.values())):
            self._say(x, OPTIMIZER)

    def _say(self, x: Tensor, group: str) -> None:
        key = self.storages.key_of(x)
        if key is not None:
            self.said.setdefault(key, group)

    def parameter(self, x: Tensor) -> None:
        """Note a parameter."""
        if id(x) not in self._parameters:
            self._parameters[id(x)] = weakref.ref(x)
            self._say(x, PARAMETERS)

    def parameters(self) -> Iterator[Tensor]:
        """The parameters that were seen and are alive."""
        yield from (x for reference in list(self._parameters.values()) if (x := reference()) is not None)

    def born(self, key: int, backward: bool) -> None:
        """Note the birth of a storage."""
        if self._stack:
            self.made_in[key] = self._stack[-1]
            if backward:
                self.kept.add(key)

    def operator(self, func: Any, args: Any) -> None:
        """Note what an operator says about classes and parameters."""
        for x in tensors_in(args):
            if isinstance(x, torch.nn.Parameter):
                self.parameter(x)
        if name_of(func) in ("aten::nll_loss_forward", "aten::nll_loss2d_forward"):
            self._classes.add(int(args[0].shape[1 if args[0].dim() > 1 else 0]))

    def groups(self, events: Iterable[Event], owners: Mapping[int, int]) -> dict[int, str]:
        """Storage -> group, of those that are known. `owners`: storage -> the parameter that it comes from."""
        events = list(events)
        births = [event for event in events if type(event) is Alloc]
        saved = {event.key for event in events if type(event) is Save} | self.kept
        sizes = {birth.key: birth.shape for birth in births if self.said.get(birth.key) == PARAMETERS}
        # A copy of a parameter, of its shape: the same weight in another type.
        casts = {b.key for b in births if b.op in _CASTS and sizes.get(owners.get(b.key, -1)) == b.shape}
        found = dict.fromkeys(casts, f"{PARAMETERS} cast") | self.said
        for birth in births:
            group = None if birth.key in found else self._group(birth, saved)
            if group is not None:
                found[birth.key] = group
        return found

    def _group(self, birth: Alloc, saved: set[int]) -> str | None:
        of = self.storages.gradients.get(birth.key)
        if of is not None and self.said.get(of) == PARAMETERS:
            return GRADIENTS
        if len(birth.shape) > 1 and birth.role != "input" and birth.shape[-1] in self._classes:
            return LOGITS if birth.shape[-1] >= _FEWEST_CLASSES else None
        # Before modules, as caches grow within the forward of attention.
        if made_by_a_cache(birth.site):
            return KV_CACHE
        place = self.made_in.get(birth.key)
        return f"{ACTIVATIONS} {place}".rstrip() if place is not None and birth.key in saved else None


def place_of(path: str) -> str:
    """A module's place in the model: alike layers together, and one name into a layer (layers.*.mlp)."""
    parts = wildcard(f"{path}.").rstrip(".").split(".")
    if "*" not in parts:
        return ".".join(parts[:2])
    named = (i for i, part in enumerate(parts) if part != "*" and i > parts.index("*"))
    return ".".join(parts[: next(named, len(parts)) + 1])


def made_by_a_cache(site: Site | None) -> bool:
    """Whether a storage was made by the method of a class, or in a file, whose name says that it is a cache."""
    if site is None:
        return False
    code, _ = site.frames[0]
    file = code.co_filename.rpartition("/")[2]
    owner = code.co_qualname.rpartition(".")[0].rpartition(".")[2]
    return bool(_CACHE.search(file) or _CACHE.search(owner))

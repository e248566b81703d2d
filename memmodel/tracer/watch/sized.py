"""Functions whose result has as many elements as values say: traced where the values take no data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.dispatch import tensors_in, tree_map_only
from memmodel.tracer.private.fake import is_fake
from memmodel.tracer.watch.known import has_value, value_of

_NAMES = ("argwhere", "bincount", "masked_select", "nonzero", "repeat_interleave", "unique", "unique_consecutive")
SIZED_BY_VALUES = {each for where in (torch, Tensor) for name in _NAMES if (each := getattr(where, name, None))}


def sized_by_values(func: Any, args: Any, kwargs: Any) -> Any:
    """The result, where the values of all operands are known; else None, and of tensors that have data themselves."""
    if not any(is_fake(x) for x in tensors_in((args, kwargs))):
        return None  # PyTorch's own code, such as a mesh's on its ranks
    value = value_of(func, args, kwargs)
    return None if value is None else tree_map_only(Tensor, _made_as, value)


def _made_as(value: Tensor) -> Tensor:
    made = torch.empty(value.shape, dtype=value.dtype)
    has_value(made, value)
    return made


def plain_index(index: Any, number: Callable[[Tensor], Any], masks: bool) -> Any:
    """An index as PyTorch reads it: numbers in slices for tensors; with `masks` a known one's places of its ones."""
    items = index if isinstance(index, tuple) else (index,)
    found: list[Any] = []
    for item in items:
        places = None
        if masks and isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) and is_fake(item):
            places = sized_by_values(torch.nonzero, (item,), {})
        if places is not None:
            found += places.unbind(1)
        elif isinstance(item, slice):
            ends = (item.start, item.stop, item.step)
            found.append(slice(*(number(end) if isinstance(end, Tensor) else end for end in ends)))
        else:
            found.append(item)
    return tuple(found) if isinstance(index, tuple) or len(found) > 1 else found[0]

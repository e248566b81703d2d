"""Functions whose result has as many elements as values say: known where the values take no data, else assumed.

Of a mask every element is kept, the most that there can be. Of the elements that equal one of E choices (the expert
that a router took) it is one in E: the load is balanced.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.dispatch import tensors_in, tree_map_only
from memmodel.tracer.private.fake import is_fake
from memmodel.tracer.watch.known import known_value, remember, value_of

_EVERY = "a mask of data keeps every element, the most that there can be"
_BALANCED = "as many take each of the choices of a router: the load is balanced"
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)
_CHOICES = "number_of_choices"  # an attribute of indices that a router took
_SHARE = "share_of_ones"  # an attribute of masks
_KEEPING = frozenset((
    "view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "t", "transpose", "permute", "movedim",
    "contiguous", "to", "long", "int", "bool", "clone", "detach", "__getitem__", "expand", "unbind", "split", "chunk",
))  # fmt: skip
_NAMES = (
    "argwhere", "bincount", "masked_select", "nonzero", "repeat_interleave", "unique", "unique_consecutive", "where",
)  # fmt: skip
SIZED_BY_VALUES = {each for where in (torch, Tensor) for name in _NAMES if (each := getattr(where, name, None))}


def sized_by_values(func: Any, args: Any, kwargs: Any) -> Any:
    """The result, where the values of all operands are known; else None, and of tensors that have data themselves."""
    if not any(is_fake(x) for x in tensors_in((args, kwargs))):
        return None  # PyTorch's own code, such as a mesh's on its ranks
    value = value_of(func, args, kwargs)
    if value is None:
        return None
    made = tree_map_only(Tensor, lambda x: torch.empty(x.shape, dtype=x.dtype), value)
    remember(func, args, kwargs, made)
    return made


def sized_as_assumed(func: Any, args: Any, kwargs: Any, note: Callable[[str], None]) -> Any:
    """The result of a size that is assumed, which `note` is told; None where nothing is."""
    name = func.__name__
    if name == "masked_select":
        x, mask = args
        return x.expand(mask.shape)[_places(mask, note).unbind(1)] if x.dim() <= mask.dim() else x[mask]
    if name in ("nonzero", "argwhere") or (name == "where" and len(args) == 1 and not kwargs):
        places = _places(args[0], note)
        as_tuple = name == "where" or kwargs.get("as_tuple", False)
        return places.unbind(1) if as_tuple else places
    return None


def _places(mask: Tensor, note: Callable[[str], None]) -> Tensor:
    """(ones, dimensions): where a mask's ones are."""
    share: Fraction | None = getattr(mask, _SHARE, None)
    note(_EVERY if share is None else _BALANCED)
    share = share or Fraction(1)
    ones = -(-mask.numel() * share.numerator // share.denominator)
    return torch.empty((ones, mask.dim()), dtype=torch.int64)


def note_shares(func: Any, args: Any, out: Any) -> None:
    """Remember which indices are a router's choices, and how many ones a comparison with one of them has."""
    name = getattr(func, "__name__", "")
    x = args[0] if args else None
    if not isinstance(x, Tensor):
        return
    if name in _KEEPING:
        for attribute in (_CHOICES, _SHARE):
            if hasattr(x, attribute):
                for each in tensors_in(out):
                    setattr(each, attribute, getattr(x, attribute))
    elif name == "topk":
        _is_choice(out[1], x)
    elif name in ("argmax", "multinomial") and out.dim():
        _is_choice(out, x)
    elif name in ("eq", "__eq__"):
        choices = [n for n in (getattr(each, _CHOICES, None) for each in args) if n]
        if len(choices) == 1:
            setattr(out, _SHARE, Fraction(1, choices[0]))
    elif name == "one_hot" and isinstance(args[-1], int):
        setattr(out, _SHARE, Fraction(1, args[-1]))


def _is_choice(indices: Tensor, x: Tensor) -> None:
    if isinstance(x.shape[-1], int):
        setattr(indices, _CHOICES, x.shape[-1])


def picks_by_value(index: Any) -> bool:
    """Whether an index has a number that is not known."""
    items = index if isinstance(index, tuple) else (index,)
    return any(_is_number(item) and known_value(item) is None for item in items)


def _is_number(item: Any) -> bool:
    return isinstance(item, Tensor) and not item.dim() and is_fake(item) and item.dtype in _WHOLE


def plain_index(index: Any, number: Callable[[Tensor], Any], masks: Callable[[Tensor], Any] | None) -> Any:
    """An index as PyTorch reads it: numbers in slices for tensors; with `masks` for a mask the places of its ones.

    A whole number in a tensor picks a view (torch/csrc/autograd/python_variable_indexing.cpp, applySlicing): where it
    is not known the first, as all are alike.
    """
    items = index if isinstance(index, tuple) else (index,)
    found: list[Any] = []
    for item in items:
        places = None
        if masks and isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) and is_fake(item):
            places = masks(item)
        if places is not None:
            columns = places.unbind(1)
            remember(Tensor.unbind, (places, 1), {}, columns)
            found += columns
        elif isinstance(item, slice):
            ends = (item.start, item.stop, item.step)
            found.append(slice(*(number(end) if isinstance(end, Tensor) else end for end in ends)))
        elif _is_number(item):
            found.append(known_value(item) or 0)
        else:
            found.append(item)
    return tuple(found) if isinstance(index, tuple) or len(found) > 1 else found[0]

"""Values that depend on no data: ranges, constants and what is computed from them alone.

Libraries decide by such values: whether positions are those of one sequence, whether a mask of ones hides anything. A
tensor remembers how it was made, without holding what it was made from; its value is computed when the code asks. Of
tokens and masks that are inputs something is assumed, which whoever asks may refuse.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.corrections.torch_types import number
from memmodel.tracer.private.autograd import version_of
from memmodel.tracer.private.dispatch import tensors_in, tree_map_only, without_function_modes, without_modes
from memmodel.tracer.private.fake import is_fake

_RECIPE = "recipe"  # an attribute of tensors whose value is known
_MOST_ELEMENTS = 1 << 24


def _named(*names: str) -> set[Any]:
    return {each for where in (torch, Tensor) for name in names if (each := getattr(where, name, None)) is not None}


_MAKERS = _named("arange", "eye", "full", "linspace", "ones", "tensor", "tril_indices", "triu_indices", "zeros")
_ALIKE = {  # makers that read a tensor's shape alone -> the value that they fill in
    **dict.fromkeys(_named("ones_like", "new_ones"), 1),
    **dict.fromkeys(_named("zeros_like", "new_zeros"), 0),
}
_NOT_COMPUTED = (
    "empty",
    "new_empty",
    "rand",
    "bernoulli",
    "dropout",
    "multinomial",
    "normal",
    "poisson",
    "__setitem__",
)


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """The computation of a value: the function, its arguments with recipes in place of tensors, and what it assumes."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    assumed: str = ""

    def value(self, found: dict[int, Any]) -> Any:
        """The value, on real tensors, of symbols at their hints; `found` has those that were computed before."""
        if id(self) not in found:
            given = tree_map_only(Recipe, lambda recipe: recipe.value(found), (self.args, self.kwargs))
            args, kwargs = tree_map_only(torch.SymInt, number, given)
            found[id(self)] = self.function(*args, **kwargs)
        return found[id(self)]


def remember(func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Note how a function's result is computed, where that takes no data."""
    if getattr(func, "__name__", "").startswith("_foreach"):  # whose writes count as none
        for x in tensors_in(args):
            vars(x).pop(_RECIPE, None)
    if not isinstance(out, Tensor) or not is_fake(out):
        return
    if func in _ALIKE:
        dtype, shape, fill = out.dtype, tuple(out.shape), _ALIKE[func]
        _note(out, Recipe(torch.full, (shape, fill), {"dtype": dtype}))
    elif func in _MAKERS:
        _note(out, Recipe(func, args, kwargs | {"device": "cpu"} if "device" in kwargs else kwargs))
    elif not getattr(func, "__name__", "").startswith(_NOT_COMPUTED):
        given = {id(x): _recipe(x, x is out) for x in tensors_in((args, kwargs))}
        if given and all(given.values()):
            made = func if id(out) not in given else _on_a_copy(func)
            assumed = next((known.assumed for known in given.values() if known and known.assumed), "")
            recipes, named = tree_map_only(Tensor, lambda x: given[id(x)], (args, kwargs))
            _note(out, Recipe(made, recipes, named, assumed))


def _on_a_copy(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function that writes into its first argument, which others read too."""
    return lambda x, *args, **kwargs: func(x.clone(), *args, **kwargs)


def assumed_of(x: Tensor) -> str:
    """The assumption about the inputs behind a tensor's value; "" for none."""
    recipe = _recipe(x)
    return recipe.assumed if recipe else ""


def known_value(x: Tensor) -> Any:
    """A tensor's value as numbers in lists, one number where it has no dimensions; None where that takes data."""
    value = computed_value(x)
    return None if value is None else value.tolist()


def computed_value(x: Tensor) -> Tensor | None:
    """A tensor's value as a tensor with data; None if that takes the inputs' data."""
    recipe = _recipe(x)
    if recipe is None or number(x.numel()) > _MOST_ELEMENTS:
        return None
    with suppress(RuntimeError, TypeError), without_modes(), without_function_modes(), torch.no_grad():
        value: Tensor = recipe.value({})
        return value
    return None


def given_as(x: Tensor, value: int, assumed: str = "") -> None:
    """Say that a tensor is filled with a number, known or assumed."""
    _note(x, Recipe(torch.full, (tuple(x.shape), value), {"dtype": x.dtype}, assumed))


def _note(x: Tensor, recipe: Recipe) -> None:
    version = _version(x)
    if version is not None:
        setattr(x, _RECIPE, (recipe, version))


def _recipe(x: Tensor, written: bool = False) -> Recipe | None:
    """The recipe of its value (before the function that has just `written` it); None if another function wrote it."""
    if not is_fake(x):
        return Recipe(lambda: x, (), {})
    recipe, version = getattr(x, _RECIPE, (None, None))
    now = _version(x)
    known = recipe is not None and now is not None and version == now - written
    return recipe if known else None


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else version_of(x)

"""Values that depend on no data: ranges, constants and what is computed from them alone.

Libraries decide by such values: whether positions are those of one sequence, whether a mask of ones hides anything. A
tensor remembers how it was made, without holding what it was made from; its value is computed when the code asks. Of
random numbers one draw is taken, as in a run. Of tokens and masks that are inputs something is assumed, which whoever
asks may refuse.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from random import getrandbits
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.corrections.torch_types import number
from memmodel.tracer.private.autograd import version_of
from memmodel.tracer.private.dispatch import tensors_in, tree_map_only, without_function_modes, without_modes
from memmodel.tracer.private.fake import is_fake

_RECIPE = "recipe"  # an attribute of tensors whose value is known
# Larger values are not computed to answer a question, and larger buffers and batches not remembered.
_MOST_ELEMENTS = 1 << 24
_MOST_GIVEN = 1 << 16


def _named(*names: str) -> set[Any]:
    return {each for where in (torch, Tensor) for name in names if (each := getattr(where, name, None)) is not None}


_MAKERS = _named("arange", "eye", "full", "linspace", "ones", "tensor", "tril_indices", "triu_indices", "zeros")
_DRAWS = _named("rand", "randint", "randn", "randperm")
MAKERS = _MAKERS | _DRAWS | _named("empty")  # of tensors from sizes, on the device that is named
_ALIKE = {  # makers that read a tensor's shape alone -> the value that they fill in
    **dict.fromkeys(_named("ones_like", "new_ones"), 1),
    **dict.fromkeys(_named("zeros_like", "new_zeros"), 0),
}
# Beginnings of the names of functions whose results are not determined by their operands.
_NOT_COMPUTED = (
    "empty",
    "new_empty",
    "rand",
    "bernoulli",
    "dropout",
    "cauchy",
    "exponential",
    "geometric",
    "log_normal",
    "multinomial",
    "normal",
    "poisson",
    "uniform",
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
    elif isinstance(out, list | tuple):
        _remember_each(func, args, kwargs, out)
    elif func is Tensor.__setitem__:
        _remember_written(*args)
    elif isinstance(out, Tensor) and is_fake(out):
        recipe = _recipe_of(func, args, kwargs, out)
        if recipe is not None:
            _note(out, recipe)


def _remember_each(func: Any, args: Any, kwargs: Any, out: Sequence[Any]) -> None:
    """Several results, such as those of `unbind`, which iterates over a tensor."""
    whole = _recipe_of(func, args, kwargs, out)
    for place, x in enumerate(out):
        if whole is not None and isinstance(x, Tensor) and is_fake(x):
            _note(x, Recipe(itemgetter(place), (whole,), {}, whole.assumed))


def _remember_written(x: Tensor, index: Any, value: Any) -> None:
    """Note how x is computed after `x[index] = value`."""
    before = _recipe(x, written=True) if is_fake(x) else None
    given = {id(each): _recipe(each) for each in tensors_in((index, value))}
    if before and all(given.values()):
        index, value = tree_map_only(Tensor, lambda each: given[id(each)], (index, value))
        _note(x, Recipe(_with, (before, index, value), {}, before.assumed))


def _with(x: Tensor, index: Any, value: Any) -> Tensor:
    x = x.clone()
    x[index] = value
    return x


def _recipe_of(func: Any, args: Any, kwargs: Any, out: Any) -> Recipe | None:
    """How a function's result is computed; None where that takes data."""
    if func in _ALIKE:
        return Recipe(torch.full, (tuple(out.shape), _ALIKE[func]), {"dtype": out.dtype})
    if func in _DRAWS:
        return Recipe(_drawn_once(func, out), args, kwargs)
    if func in _MAKERS:
        # The value is computed on this machine, whatever device the code named.
        return Recipe(func, args, kwargs | {"device": "cpu"} if "device" in kwargs else kwargs)
    if getattr(func, "__name__", "").startswith(_NOT_COMPUTED):
        return None
    given = {id(x): _recipe(x, x is out) for x in tensors_in((args, kwargs))}
    if not given or not all(given.values()):
        return None
    made = func if id(out) not in given else _on_a_copy(func)
    assumed = next((known.assumed for known in given.values() if known and known.assumed), "")
    recipes, named = tree_map_only(Tensor, lambda x: given[id(x)], (args, kwargs))
    return Recipe(made, recipes, named, assumed)


def _drawn_once(func: Callable[..., Any], out: Tensor) -> Callable[..., Any]:
    """The draw, which later questions find again; Python's generator seeds it, whose use a trace notices."""
    few = number(out.numel()) <= _MOST_ELEMENTS

    @cache
    def seed() -> int:
        return getrandbits(60)

    def drawn(*args: Any, **kwargs: Any) -> Any:
        if not few:
            raise RuntimeError("too many numbers to draw for one question")
        given = {"generator": torch.Generator().manual_seed(seed())} | kwargs
        return func(*args, **given | ({"device": "cpu"} if "device" in kwargs else {}))

    return drawn


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
    value: Tensor | None = None if number(x.numel()) > _MOST_ELEMENTS else _evaluated(recipe)
    return value


def value_of(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The result of a function on tensors with data; None if that takes the inputs' data."""
    return _evaluated(_recipe_of(func, args, kwargs, None))


def _evaluated(recipe: Recipe | None) -> Any:
    if recipe is not None:
        # A function that fails on plain tensors leaves the value unknown; the trace itself goes on.
        with suppress(RuntimeError, TypeError), without_modes(), without_function_modes(), torch.no_grad():
            return recipe.value({})
    return None


def given_as(x: Tensor, value: int, assumed: str = "") -> None:
    """Say that a tensor is filled with a number, known or assumed."""
    _note(x, Recipe(torch.full, (tuple(x.shape), value), {"dtype": x.dtype}, assumed))


def has_value(x: Tensor, value: Tensor) -> None:
    """Say that a tensor without data has the value of one with data, if these are few whole numbers."""
    if not value.is_floating_point() and not is_fake(value) and value.numel() <= _MOST_GIVEN:
        _note(x, Recipe(lambda: value, (), {}))


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
    # Inference tensors have no version counter.
    return None if x.is_inference() else version_of(x)

"""Values of tensors that the code asks for: known, given one, or refused.

A trace has no data. Step counters are known; optimizers take values as factors, which change no memory; GradScaler
finds no infinity. The value of a loss that is only printed and summed up is 1: a number that refuses to decide
anything. Whether something is finite has a usual answer: yes.
"""

import math
import sys
from collections.abc import Callable
from contextlib import suppress
from operator import index
from typing import Any

import torch
from torch import Tensor

from memmodel.base.errors import UsageError
from memmodel.events.origin import line_of, users_frame
from memmodel.tracer.corrections.torch_types import number
from memmodel.tracer.private.dispatch import tree_leaves, tree_map_only
from memmodel.tracer.private.fake import DataDependentOutputException, is_fake
from memmodel.tracer.watch.known import assumed_of, computed_value, given_as, known_value
from memmodel.tracer.watch.watcher import Watcher

_ASKS = (
    "the code asks for the value of a tensor: a trace has sizes but no data; take branches and sizes from shapes or "
    "arguments instead"
)
_GENERATION = "transformers.generation."
_MOST_LISTED = 1 << 20  # elements that a list or array of stand-ins may have
_ARITHMETIC = {  # functions of which a number changes no size
    *(f"{r}{name}" for r in ("", "r", "i") for name in ("add", "sub", "mul", "div", "truediv", "pow")), "clamp",
    "clamp_min", "clamp_max", "fill", "full_like", "masked_fill", "lerp", "setitem",
}  # fmt: skip
_USUAL = "usual_answer"  # an attribute of tensors of bools


def _named(*names: str) -> list[Any]:
    found = [getattr(where, name, None) for where in (torch, torch.Tensor) for name in names]
    return [each for each in found if each is not None]


_ANSWERS = {
    **dict.fromkeys(_named("isnan", "isinf", "isneginf", "isposinf"), False),
    **dict.fromkeys(_named("isfinite"), True),
}
_SAME = _named("any", "all", "__or__", "__and__", "logical_or", "logical_and", "bitwise_or", "bitwise_and", "clone")
_OPPOSITE = _named("logical_not", "__invert__", "bitwise_not")


class Given(float):
    """A number that stands for the value of a tensor: it may be printed and computed with, and decides nothing.

    Compared with its like (the best loss so far), all of them are 1.
    """

    whole = False  # whether the tensor's numbers are

    def __bool__(self) -> bool:
        raise UsageError(_ASKS)

    __int__ = __index__ = __trunc__ = __floor__ = __ceil__ = __bool__

    def __hash__(self) -> int:
        return float.__hash__(self)

    def __format__(self, spec: str) -> str:
        # A count is formatted as an integer, which a float refuses.
        return format(1, spec) if spec.endswith("d") else float.__format__(self, spec)


class GivenWhole(Given):
    """A number that stands for the value of a tensor of integers."""

    whole = True


def _computing(name: str) -> Callable[..., Any]:
    really = getattr(float, name)

    def computed(self: Given, *others: Any) -> Any:
        result = really(self, *others)
        whole = self.whole and "truediv" not in name and all(isinstance(x, int | GivenWhole) for x in others)
        return (GivenWhole if whole else Given)(result) if isinstance(result, float) else result

    return computed


def _comparing(name: str) -> Callable[..., Any]:
    really = getattr(float, name)

    def compared(self: Given, other: Any) -> Any:
        if isinstance(other, Given) or (isinstance(other, float) and not math.isfinite(other)):
            return really(self, other)  # the best so far; whether it is finite
        raise UsageError(_ASKS)

    return compared


# Arithmetic on a subclass of float gives plain floats, by which code could then branch.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod"):
    setattr(Given, f"__{_name}__", _computing(f"__{_name}__"))
    setattr(Given, f"__r{_name}__", _computing(f"__r{_name}__"))
for _name in ("neg", "abs", "pos", "round"):
    setattr(Given, f"__{_name}__", _computing(f"__{_name}__"))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Given, f"__{_name}__", _comparing(f"__{_name}__"))


class Values:
    """Answers for what the code asks of tensors' values, with a note of the lines that ask."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.answers: dict[Any, Callable[..., Any]] = {
            torch.Tensor.item: self.item,
            torch.Tensor.__float__: lambda x: float(self.item(x)),
            torch.Tensor.__format__: self._formatted,
            torch.Tensor.__bool__: self._decided,
            torch.Tensor.__int__: lambda x: int(self.item(x)),
            torch.Tensor.__index__: lambda x: index(self.item(x)),
            torch.Tensor.tolist: self._listed,
            torch.Tensor.numpy: lambda x, **_: self._array(x),
            torch.Tensor.__array__: lambda x, dtype=None: self._array(x).astype(dtype or object, copy=False),
            torch.tensor: _filled(torch.tensor),
            torch.as_tensor: _filled(torch.as_tensor),
            torch.from_numpy: _filled(torch.from_numpy),
            torch.isin: self._among,
        }

    def item(self, x: Tensor) -> Any:
        """The value of a tensor of one element."""
        value = self._known(x)
        if value is not None:
            return value
        with suppress(DataDependentOutputException):
            # A fake tensor of a number in the code has its value; else there is an error or an unbacked symbol.
            known = x.item()
            if not isinstance(known, torch.SymInt | torch.SymFloat | torch.SymBool):
                return known
        asking = asking_module()
        # GradScaler counts the infinite gradients that it found.
        if asking.startswith("torch.amp."):
            return 0.0  # no gradient is infinite
        if asking.startswith("torch.optim."):
            if asking == "torch.optim.lbfgs":  # decides by them
                raise UsageError(_ASKS)
            return 1.0
        if x.dtype is torch.bool:
            return self._usual(x)
        return self._given(x)

    def _given(self, x: Tensor) -> Given:
        self._note("a tensor's value is taken as 1, for prints and counters")
        return (Given if x.is_floating_point() else GivenWhole)(1.0)

    def _listed(self, x: Tensor) -> Any:
        """The values in lists, as many as there are, also where they are not known."""
        if not is_fake(x):
            return x.tolist()
        value = known_value(x)
        if value is not None:
            return value
        if number(x.numel()) > _MOST_LISTED:
            raise UsageError(_ASKS)
        return _nested(self._given(x), [int(size) for size in x.shape])

    def _array(self, x: Tensor) -> Any:
        if not is_fake(x):
            return x.numpy()
        value = computed_value(x)
        if value is not None:
            return value.numpy()
        import numpy

        listed = numpy.empty([int(size) for size in x.shape], dtype=object)
        listed[...] = self._listed(x)
        return listed

    def _known(self, x: Tensor) -> Any:
        """The one number of a tensor, where it takes no data, or assumptions that Hugging Face's code may make."""
        assumed = assumed_of(x)
        if assumed and not asking_module().startswith("transformers."):
            return None
        value = _only(known_value(x))
        self._note(assumed if value is not None else "")
        return value

    def _formatted(self, x: Tensor, spec: str) -> str:
        return format(self.item(x), spec) if not x.dim() and is_fake(x) else object.__format__(x, spec)

    def _decided(self, x: Tensor) -> bool:
        # It compares the mask with a causal one (torch/nn/modules/transformer.py, _detect_is_causal_mask).
        if asking_module() == "torch.nn.modules.transformer":
            self._note("a mask of the shape of a causal one is taken as causal; is_causal=False says that it is not")
            return True
        value = self._known(x)
        if value is not None:
            return bool(value)
        if asking_module() == "torch.nn.init":  # whether a draw lies outside of its bounds
            return False
        return self._usual(x)

    def _usual(self, x: Tensor) -> bool:
        """The way that a branch usually goes. Raises UsageError where there is no such way."""
        if asking_module().startswith(_GENERATION):
            self._note("a branch of generate() is not taken")
            return False
        usual = getattr(x, _USUAL, None)
        if usual is None:
            raise UsageError(_ASKS)
        self._note("a branch goes the way of finite numbers")
        return bool(usual)

    def _among(self, *args: Any, **kwargs: Any) -> Tensor:
        """Whether tokens are those that end a sequence: while one generates, none is."""
        found = torch.isin(*args, **kwargs)
        if asking_module().startswith(_GENERATION) and any(known_value(x) is None for x in args):
            given_as(found, 0)
            self._note("generation: every sequence grows to the largest length")
        return found

    def _note(self, what: str) -> None:
        if not what:
            return
        site = self.watcher.site()
        frame = users_frame(site) if site else None
        self.watcher.note(what + (f" ({frame[0].co_filename}, line {line_of(frame)})" if frame else ""))


def _nested(value: Any, shape: list[int]) -> Any:
    return [_nested(value, shape[1:]) for _ in range(shape[0])] if shape else value


def _filled(func: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.tensor` of numbers, some of which stand for values: their number is known, which is the tensor's size."""

    def filled(data: Any, *args: Any, **kwargs: Any) -> Any:
        if not stands_for_values(data):
            return func(data, *args, **kwargs)
        plain = data.tolist() if hasattr(data, "tolist") else data
        return torch.tensor(tree_map_only(Given, lambda x: 1 if x.whole else 1.0, plain), *args, **kwargs)

    return filled


def _only(value: Any) -> Any:
    """The number in lists of one element; None where there is none, or more."""
    while isinstance(value, list) and len(value) == 1:
        (value,) = value
    return None if isinstance(value, list) else value


def stands_for_values(given: Any) -> bool:
    """Whether a number that stands for a value is among these, or an array of such."""
    return any(isinstance(x, Given) or str(getattr(x, "dtype", "")) == "object" for x in tree_leaves(given))


def check_given(func: Any, args: Any, kwargs: Any) -> None:
    """Raises UsageError where a function of PyTorch, other than arithmetic, is handed such a number."""
    if getattr(func, "__name__", "").strip("_") not in _ARITHMETIC and stands_for_values((args, kwargs)):
        raise UsageError(_ASKS)


def answered(func: Any, args: Any, out: Any) -> Any:
    """The result, which remembers the usual answer where it says whether numbers are finite."""
    if not isinstance(out, Tensor) or out.dtype is not torch.bool:
        return out
    if func in _ANSWERS:
        setattr(out, _USUAL, _ANSWERS[func])
    elif func in _SAME or func in _OPPOSITE:
        known = {getattr(x, _USUAL, None) for x in args if isinstance(x, Tensor)}
        if len(known) == 1 and None not in known:
            setattr(out, _USUAL, known.pop() is not (func in _OPPOSITE))
    return out


def asking_module() -> str:
    """The module whose code asks, outside of the tracer."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith("memmodel.tracer.watch."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))

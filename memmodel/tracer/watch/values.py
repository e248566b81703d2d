"""Values of tensors that the code asks for: known, given one, or refused.

A trace has no data. Step counters are known; optimizers take values as factors, which change no memory; GradScaler
finds no infinity. The value of a loss that is printed and summed up is 1. Whether something is finite has a usual
answer: yes. Other branches go as for 1, which equals no other number; a note says so, and another trace takes them the
other way. A size is never taken from such a value.
"""

import math
import sys
from collections.abc import Callable
from contextlib import suppress
from operator import eq, ge, gt, index, le, lt, ne
from typing import Any

import torch
from torch import Tensor

from memmodel.base.errors import UsageError
from memmodel.tracer.corrections.torch_types import number
from memmodel.tracer.private.dispatch import tree_leaves, tree_map_only
from memmodel.tracer.private.fake import DataDependentOutputException, is_fake
from memmodel.tracer.watch.known import assumed_of, computed_value, given_as, known_value
from memmodel.tracer.watch.watcher import Watcher

_ASKS = (
    "the code asks for the value of a tensor: a trace has sizes but no data; take branches and sizes from shapes or "
    "arguments instead"
)
_AS_INT = (
    "the code makes an int of a tensor's value: it could be a size or a number of rounds, and a trace has no data; "
    "print or add up counts by .item(), take sizes from shapes, or pass them in as numbers"
)
_LBFGS = (
    "L-BFGS goes on for as long as values say: trace a step of its closure alone, and add the vectors that it keeps, "
    "2 * history_size (100) + 4 times the parameters"
)
_GENERATION = "transformers.generation."
_MOST_LISTED = 1 << 20  # elements that a list or array of stand-ins may have
_ARITHMETIC = {  # functions of which a number changes no size
    *(f"{r}{name}" for r in ("", "r", "i") for name in ("add", "sub", "mul", "div", "truediv", "pow")), "clamp",
    "clamp_min", "clamp_max", "fill", "full_like", "masked_fill", "lerp", "setitem", "lt", "le", "gt", "ge", "eq", "ne",
}  # fmt: skip
_USUAL = "usual_answer"  # an attribute of tensors of bools: (the answer, whether it is that numbers are finite)


def _named(*names: str) -> list[Any]:
    found = [getattr(where, name, None) for where in (torch, torch.Tensor) for name in names]
    return [each for each in found if each is not None]


_ANSWERS = {
    **dict.fromkeys(_named("isnan", "isinf", "isneginf", "isposinf"), False),
    **dict.fromkeys(_named("isfinite"), True),
}
_OF_ALL: dict[Any, Callable[[Any], bool]] = {  # functions of bools -> the answer of their result, from their operands'
    **dict.fromkeys(_named("any", "all", "clone"), all),
    **dict.fromkeys(_named("__or__", "__ior__", "logical_or", "logical_or_", "bitwise_or", "bitwise_or_"), any),
    **dict.fromkeys(_named("__and__", "__iand__", "logical_and", "logical_and_", "bitwise_and", "bitwise_and_"), all),
}
_FILLED = {
    **dict.fromkeys(_named("zeros", "zeros_like", "new_zeros"), False),
    **dict.fromkeys(_named("ones", "ones_like", "new_ones"), True),
}
_OPPOSITE = _named("logical_not", "__invert__", "bitwise_not")
_COMPARED: dict[Any, Callable[[Any, Any], bool]] = {
    each: compare
    for compare, names in {
        lt: ("lt", "less", "__lt__"), le: ("le", "less_equal", "__le__"), gt: ("gt", "greater", "__gt__"),
        ge: ("ge", "greater_equal", "__ge__"), eq: ("eq", "__eq__"), ne: ("ne", "not_equal", "__ne__"),
    }.items()
    for each in _named(*names)
}  # fmt: skip


class Given(float):
    """A number that stands for the value of a tensor: it may be printed, computed with and compared, and is no size.

    Compared with its like (the best loss so far), all of them are 1.
    """

    whole = False  # whether the tensor's numbers are
    decided: Callable[[bool], bool] = bool  # told of a branch, and which way it goes

    def by(self, decided: Callable[[bool], bool]) -> "Given":
        """The same, which tells of branches on it."""
        self.decided = decided
        return self

    def __bool__(self) -> bool:
        return self.decided(float.__bool__(self))

    def __int__(self) -> int:
        raise UsageError(_AS_INT)

    __index__ = __trunc__ = __floor__ = __ceil__ = __int__

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
        return (GivenWhole if whole else Given)(result).by(self.decided) if isinstance(result, float) else result

    return computed


def _comparing(name: str) -> Callable[..., Any]:
    really = getattr(float, name)

    def compared(self: Given, other: Any) -> Any:
        if isinstance(other, Given) or (isinstance(other, float) and not math.isfinite(other)):
            return bool(really(self, other))  # the best so far; whether it is finite
        return self.decided(name == "__ne__" if name in ("__eq__", "__ne__") else really(self, other))

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
                raise UsageError(_LBFGS)
            return 1.0
        if x.dtype is torch.bool:
            return self._usual(x)
        return self._given(x)

    def statistic(self) -> Given:
        """`torch.cuda.memory_allocated()` and its like."""
        self.note("a statistic of the GPU's memory is taken as 1, for prints")
        return GivenWhole(1.0)

    def _given(self, x: Tensor) -> Given:
        self.note("a tensor's value is taken as 1, for prints and counters")
        return (Given if x.is_floating_point() else GivenWhole)(1.0).by(self._branch)

    def _branch(self, answer: bool) -> bool:
        """The way that a branch on a value goes."""
        if asking_module() == "torch.optim.lbfgs":
            raise UsageError(_LBFGS)
        answer = answer is not self.watcher.otherwise
        self.note(f"what a branch asks of a tensor's value is taken as {answer}")
        self.watcher.branched = True
        return answer

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
        self.note(assumed if value is not None else "")
        return value

    def _formatted(self, x: Tensor, spec: str) -> str:
        return format(self.item(x), spec) if not x.dim() and is_fake(x) else object.__format__(x, spec)

    def _decided(self, x: Tensor) -> bool:
        if number(x.numel()) > 1:
            raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
        # It compares the mask with a causal one (torch/nn/modules/transformer.py, _detect_is_causal_mask).
        if asking_module() == "torch.nn.modules.transformer":
            self.note("a mask of the shape of a causal one is taken as causal; is_causal=False says that it is not")
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
            self.note("a branch of generate() is not taken")
            return False
        if asking_module().startswith("torch.distributions."):  # whether its arguments are valid
            return True
        answer, finite = getattr(x, _USUAL, (True, False))
        if not finite:
            return self._branch(answer)
        self.note("a branch goes the way of finite numbers")
        return bool(answer)

    def _among(self, *args: Any, **kwargs: Any) -> Tensor:
        """Whether tokens are those that end a sequence: while one generates, none is."""
        found = torch.isin(*args, **kwargs)
        if asking_module().startswith(_GENERATION) and any(known_value(x) is None for x in args):
            given_as(found, 0)
            self.note("generation: every sequence grows to the largest length")
        return found

    def note(self, what: str) -> None:
        """Say what was assumed, and on which line."""
        self.watcher.note_here(what)


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
    # Tensors first: nearly all of them are.
    others = (x for x in tree_leaves(given) if not isinstance(x, Tensor))
    return any(isinstance(x, Given) or str(getattr(x, "dtype", "")) == "object" for x in others)


def check_given(func: Any, args: Any, kwargs: Any) -> None:
    """Raises UsageError where a function of PyTorch, other than arithmetic, is handed such a number."""
    if getattr(func, "__name__", "").strip("_") not in _ARITHMETIC and stands_for_values((args, kwargs)):
        raise UsageError(_ASKS)


def answered(func: Any, args: Any, out: Any) -> Any:
    """The result, which remembers the usual answer where it says whether numbers are finite."""
    if not isinstance(out, Tensor) or out.dtype is not torch.bool:
        return out
    if func in _ANSWERS:
        setattr(out, _USUAL, (_ANSWERS[func], True))
    elif func in _COMPARED:
        setattr(out, _USUAL, (as_one(_COMPARED[func], *args), False))
    elif func in _FILLED:
        setattr(out, _USUAL, (_FILLED[func], False))
    elif func in _OF_ALL or func in _OPPOSITE:
        known = [getattr(x, _USUAL, None) for x in args if isinstance(x, Tensor)]
        if known and all(known):
            answers, finite = zip(*filter(None, known), strict=True)
            answer = not answers[0] if func in _OPPOSITE else _OF_ALL[func](answers)
            setattr(out, _USUAL, (answer, all(finite)))
    return out


def as_one(compare: Callable[[Any, Any], bool], *operands: Any) -> bool:
    """How values compare where each is 1; two that are not known, or one and a number, are not equal."""
    if compare in (eq, ne):
        return compare is ne
    first, second = (1.0 if isinstance(x, Tensor) else x for x in operands)
    return bool(compare(first, second))


def asking_module() -> str:
    """The module whose code asks, outside of the tracer."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith("memmodel.tracer.watch."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))

"""Autocast on recording tensors: which operators cast their operands, and which casts are kept until it ends.

Matrix products and fused attention run in the low precision, what loses digits in fp32. The cast of a leaf that learns
is kept until the outermost context ends. Sources: aten/src/ATen/autocast_mode.cpp (cached_cast), autocast_mode.h.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import memmodel.rules.activations
import memmodel.rules.products
import memmodel.rules.softmax  # noqa: F401 (registers the methods that are cast)
from memmodel.base.dtypes import DType, bfloat16, float32
from memmodel.rules.copies import to
from memmodel.tensors.tape import Tape, current
from memmodel.tensors.tensor import Tensor, method, methods

# The parts that recording tensors have of autocast's lists, which differ by device (autocast_mode.h, AT_FORALL_*).
LOWERED = ("linear", "matmul", "mm", "bmm", "baddbmm", "scaled_dot_product_attention")
_WIDENED = ("pow", "rsqrt", "exp", "log", "reciprocal", "layer_norm", "softmax", "log_softmax")
_WIDENED_ON_CPU = ("cross_entropy",)


def autocast(device_type: str = "cuda", dtype: DType = bfloat16, enabled: bool = True) -> AbstractContextManager[None]:
    """A context in which operators cast their operands, as on the tape's device."""
    return current().casting(dtype if enabled else None)


def cast(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its operands cast where autocast says so; inside, nothing is cast again."""

    @wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        tape = args[0].storage.tape
        wanted = tape.autocast and _wanted(name, tape)
        if not wanted:
            return function(*args, **named)
        # The wrapper excludes the autocast key for the call (WrapFunction_), so operators inside cast nothing.
        before, tape.autocast = tape.autocast, None
        try:
            # C++ casts the last one first.
            named = {name: _cast(x, wanted, tape) for name, x in reversed(named.items())}
            given = [_cast(x, wanted, tape) for x in reversed(args)]
            return function(*reversed(given), **named)
        finally:
            tape.autocast = before

    return run


def promoted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a list of tensors, which autocast casts to the widest type among them."""

    @wraps(function)
    def run(tensors: Sequence[Tensor], *args: Any, **named: Any) -> Any:
        tape = tensors[0].storage.tape
        if tape.autocast and any(x.dtype is float32 for x in tensors):
            tensors = [_cast(x, float32, tape) for x in tensors]
        return function(tensors, *args, **named)

    return run


def _wanted(name: str, tape: Tape) -> DType | None:
    if name in LOWERED:
        return tape.autocast
    return float32 if name in (_WIDENED if tape.device.name == "cuda" else _WIDENED_ON_CPU) else None


def _cast(x: Any, wanted: DType, tape: Tape) -> Any:
    """The operand in the type wanted: the cast that is kept, or a new one."""
    if not isinstance(x, Tensor) or not x.dtype.floating or x.dtype is wanted:
        return x
    # cached_cast: weights are cast once for all their uses; a cast to fp32, or of an activation, is not kept.
    if not (wanted is not float32 and x.dtype is float32 and x.requires_grad and x.is_leaf):
        return to(x, wanted)
    if id(x) not in tape.casts:
        tape.casts[id(x)] = to(x, wanted)
    return tape.casts[id(x)]


# Methods are wrapped here; functions, such as `linear`, where the namespace is made (`memmodel.recording`).
for _name in (*LOWERED, *_WIDENED):
    if _name in methods:
        _function = cast(_name, methods[_name])
        for _alias in (_name, {"matmul": "__matmul__", "pow": "__pow__"}.get(_name, _name)):
            method(_alias)(_function)

"""Inputs of a traced function, written as `q=B,H,N,D:bf16`: sizes are letters, numbers (16k too) or products (H*D)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from memmodel.attention.case import check_size
from memmodel.base.errors import UsageError, shortened
from memmodel.base.units import parse_size
from memmodel.tracer.corrections.torch_types import dtype_named

_EXPECTED = "expected NAME=SIZES:DTYPE such as q=B,H,N,D:bf16, with sizes as letters, numbers or products (H*D)"
_FACTOR = re.compile(r"[A-Za-z_]\w*|\d+[kKmM]?")


class Input(NamedTuple):
    """A tensor that the function takes.

    Attributes:
        name: of the function's parameter.
        sizes: of the dimensions, each a tuple of factors: letters and numbers.
        dtype: of its elements.
        grad: whether a gradient is asked for; None leaves it to the step.
    """

    name: str
    sizes: tuple[tuple[str | int, ...], ...]
    dtype: torch.dtype
    grad: bool | None = None

    def shape(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The shape for values of the letters."""
        return tuple(_product(values[f] if isinstance(f, str) else f for f in size) for size in self.sizes)

    def text(self) -> str:
        """The input as it is written."""
        sizes = ",".join("*".join(map(str, size)) for size in self.sizes)
        return f"{self.name}={sizes}:{str(self.dtype).removeprefix('torch.')}"


def _product(factors: Iterable[Any]) -> Any:
    total: Any = 1
    for factor in factors:
        # A single factor stays itself: a product with 1 would be another expression.
        total = factor if isinstance(total, int) and total == 1 else total * factor
    return total


def parse_input(text: str) -> Input:
    """`NAME=SIZES[:DTYPE][:grad|nograd]`; without sizes a scalar, without a type float32."""
    name, equals, rest = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise UsageError(f"input {text!r}: {_EXPECTED}")
    sizes, *options = (part.strip() for part in rest.split(":"))
    dtype, grad = torch.float32, None
    for option in options:
        if option in ("grad", "nograd"):
            grad = option == "grad"
        else:
            dtype = dtype_named(option, ("grad", "nograd"))
    if grad and not dtype.is_floating_point:
        raise UsageError(f"input {text!r}: a gradient of {dtype}: only floating types have one")
    dims = tuple(_size(part.strip(), text) for part in sizes.split(",")) if sizes else ()
    return Input(name.strip(), dims, dtype, grad)


def _size(part: str, text: str) -> tuple[str | int, ...]:
    factors = [factor.strip() for factor in part.split("*")]
    if not all(_FACTOR.fullmatch(factor) for factor in factors):
        raise UsageError(f"size {part!r} of input {text!r}: {_EXPECTED}")
    return tuple(check_size("size", parse_size(f)) if f[0].isdigit() else f for f in factors)


def inputs_of(given: Any) -> tuple[Input, ...]:
    """Inputs from text, a list of texts, or a mapping of names to "B,N,D:bf16" or to tensors."""
    if isinstance(given, str):
        given = given.split()
    if not isinstance(given, Mapping | list | tuple):
        raise UsageError(f"inputs {shortened(given)}: expected {{'q': 'B,H,N,D:bf16'}} or ['q=B,H,N,D:bf16']")
    if isinstance(given, Mapping):
        found = tuple(_from_value(str(name), value) for name, value in given.items())
    else:
        found = tuple(x if isinstance(x, Input) else parse_input(str(x)) for x in given)
    names = [x.name for x in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"input {twice} is given {names.count(twice)} times: each name once")
    return found


def _from_value(name: str, value: Any) -> Input:
    if isinstance(value, torch.Tensor):
        return Input(name, tuple((int(s),) for s in value.shape), value.dtype, value.requires_grad or None)
    return parse_input(f"{name}={value}")


def letters_of(inputs: Iterable[Input]) -> list[str]:
    """The letters in order of appearance."""
    return list(dict.fromkeys(f for x in inputs for size in x.sizes for f in size if isinstance(f, str)))


def parse_at(text: str) -> dict[str, int]:
    """Values of letters: "N=16384,B=8", also "N=16k"."""
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = part.partition("=")
        name, label = name.strip(), f"--at {name.strip()}"
        if not equals or not name:
            raise UsageError(f"--at {part!r}: expected LETTER=NUMBER such as N=16384, with commas between")
        if name in found:
            raise UsageError(f"--at gives {name} twice: each letter once")
        found[name] = check_size(label, parse_size(value, label))
    return found


def checked_at(at: Mapping[str, int], letters: Iterable[str]) -> dict[str, int]:
    """`at` for these letters alone. Raises UsageError for a letter that no input has."""
    known = list(letters)
    for name, value in at.items():
        if name not in known:
            raise UsageError(
                f"{name}={value}: no input has a size {name}; the letters are {', '.join(known) or 'none'}"
            )
        check_size(name, value)
    return dict(at)

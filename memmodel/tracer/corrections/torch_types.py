"""PyTorch's element types and sizes as the core has them."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch

from memmodel.base import dtypes
from memmodel.base.dtypes import DType
from memmodel.base.errors import unknown
from memmodel.sizes.dims import Shape

_SHORT = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "half": torch.float16,
    "float": torch.float32,
    "int": torch.int64,
    "long": torch.int64,
}
_OURS = {
    "float64": dtypes.float64,
    "float32": dtypes.float32,
    "float16": dtypes.float16,
    "bfloat16": dtypes.bfloat16,
    "int64": dtypes.int64,
    "int32": dtypes.int32,
    "uint8": dtypes.uint8,
    "bool": dtypes.bool_,
}


@cache
def kind_of(dtype: torch.dtype) -> DType:
    """The core's element type for torch's."""
    name = str(dtype).removeprefix("torch.")
    return dtypes.element_type(name, dtype.itemsize, dtype.is_floating_point)


def dtype_named(name: str, besides: Iterable[str] = ()) -> torch.dtype:
    """torch's element type called `name`: bf16, float32, int64, bool, ... Raises UsageError for others.

    `besides`: other words that could stand there.
    """
    text = name.strip().casefold().removeprefix("torch.")
    found = _SHORT.get(text) or getattr(torch, text, None)
    if not isinstance(found, torch.dtype):
        raise unknown("dtype", name, [*_SHORT, *_OURS, *besides])
    return found


def plain_dims(sizes: Iterable[Any]) -> Shape:
    """Sizes as ints or sympy expressions."""
    return tuple(size.node.expr if isinstance(size, torch.SymInt) else int(size) for size in sizes)


def count(tensor: torch.Tensor) -> Any:
    """Elements of a tensor, as an int or an expression."""
    return plain_dims((tensor.numel(),))[0]


def number(size: Any) -> int:
    """A size as a number, by its hint where it is symbolic: layouts do not depend on the sizes."""
    # int(size) would fix the symbol at its hint.
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)

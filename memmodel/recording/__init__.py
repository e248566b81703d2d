"""Recording tensors: a torch-shaped namespace whose tensors have no data and whose every operation records.

An algorithm written with the names below runs on it and on `torch` alike::

    with Tape() as tape:
        q = randn(8, 12, 4096, 64, dtype=bfloat16, requires_grad=True)
        ...
    tape.program
"""

from typing import Any

from memmodel.dtypes import bfloat16, bool_, float16, float32, float64, int32, int64, uint8
from memmodel.recording import ops_copy, ops_create, ops_matmul, ops_pointwise, ops_reduce, ops_select, ops_view  # noqa: F401
from memmodel.recording.autograd import Op, enable_grad, no_grad, saved_tensors_hooks
from memmodel.recording.checkpoint import checkpoint
from memmodel.recording.device import CPU, CUDA, Device
from memmodel.recording.function import Function
from memmodel.recording.fused import FusedKernel
from memmodel.recording.ops_create import arange, dropout, empty, full, ones, randn, zeros
from memmodel.recording.ops_einsum import einsum
from memmodel.recording.ops_join import cat, stack
from memmodel.recording.ops_select import Where
from memmodel.recording.tape import Tape
from memmodel.recording.tensor import Tensor, methods

bool = bool_


def where(condition: Tensor, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`."""
    return Where.apply(condition, x, y)


def __getattr__(name: str) -> Any:
    """Methods as functions: `softmax(x, -1)` is `x.softmax(-1)`."""
    if name in methods:
        return methods[name]
    raise AttributeError(f"module 'memmodel.recording' has no attribute {name!r}")


__all__ = [
    "CPU",
    "CUDA",
    "Device",
    "Function",
    "FusedKernel",
    "Op",
    "Tape",
    "Tensor",
    "arange",
    "bfloat16",
    "bool",
    "cat",
    "checkpoint",
    "dropout",
    "einsum",
    "empty",
    "enable_grad",
    "float16",
    "float32",
    "float64",
    "full",
    "int32",
    "int64",
    "no_grad",
    "ones",
    "randn",
    "saved_tensors_hooks",
    "stack",
    "uint8",
    "where",
    "zeros",
]

"""Recording tensors: a namespace like torch, whose tensors have no data and whose operations are recorded on a tape.

An algorithm written with the names below runs on it and on `torch` alike::

    with Tape() as tape:
        q = randn(8, 12, 4096, 64, dtype=bfloat16, requires_grad=True)
        ...
    tape.program
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import memmodel.rules.activations  # noqa: F401 (registers rules and methods)
from memmodel.base.device import CPU, CUDA, Device
from memmodel.base.dtypes import bfloat16, bool_, float16, float32, float64, int32, int64, uint8, uint64
from memmodel.rules import distributed
from memmodel.rules.arithmetic import mul
from memmodel.rules.autocast import autocast, cast, promoted
from memmodel.rules.collectives import _chunk_cat, split_with_sizes_copy
from memmodel.rules.convolution import conv1d, conv2d
from memmodel.rules.copies import arange, empty, eye, full, ones, randint, randn, zeros
from memmodel.rules.dispatch import several
from memmodel.rules.dropout import dropout
from memmodel.rules.flash_attn import flash_attn_func, flash_attn_varlen_func
from memmodel.rules.flash_attn_3 import flash_attn_3_func
from memmodel.rules.flex import create_block_mask, flex_attention
from memmodel.rules.indexing import embedding
from memmodel.rules.joins import cat, stack
from memmodel.rules.losses import cross_entropy
from memmodel.rules.masks import where
from memmodel.rules.normalization import layer_norm, rms_norm
from memmodel.rules.optimizers import LISTS, on_each
from memmodel.rules.products import einsum, linear
from memmodel.rules.reductions import MaxResult  # noqa: F401
from memmodel.rules.routing import grouped_mm
from memmodel.rules.scaled_dot_product import scaled_dot_product_attention
from memmodel.rules.transformer_engine import te_gemm
from memmodel.tensors.autograd import (
    Op,
    at_end_of_backward,
    enable_grad,
    is_grad_enabled,
    no_grad,
    same_version,
    saved_tensors_hooks,
)
from memmodel.tensors.checkpoint import checkpoint
from memmodel.tensors.function import Function
from memmodel.tensors.fused import FusedKernel
from memmodel.tensors.tape import Scope, Tape, next_action, scope, scope_of
from memmodel.tensors.tensor import Tensor, methods


class _Aten:
    """Operators by ATen's names, below autograd, as `torch.ops.aten` has them; each returns a tuple of results."""

    def __getattr__(self, name: str) -> Any:
        return partial(several, name)


ops = SimpleNamespace(aten=_Aten())
bool = bool_
cat = promoted(cat)
cross_entropy = cast("cross_entropy", cross_entropy)
layer_norm = cast("layer_norm", layer_norm)
linear = cast("linear", linear)
scaled_dot_product_attention = cast("scaled_dot_product_attention", scaled_dot_product_attention)


def __getattr__(name: str) -> Any:
    """Every method as a function: `softmax(x, -1)` is `x.softmax(-1)`; and operators on lists, by ATen's names."""
    if name in methods:
        return methods[name]
    if name.startswith(LISTS):
        return on_each(name)
    raise AttributeError(f"module 'memmodel.recording' has no attribute {name!r}")


__all__ = [
    "CPU",
    "CUDA",
    "Device",
    "Function",
    "FusedKernel",
    "Op",
    "Scope",
    "Tape",
    "Tensor",
    "_chunk_cat",
    "arange",
    "at_end_of_backward",
    "autocast",
    "bfloat16",
    "bool",
    "cat",
    "checkpoint",
    "conv1d",
    "conv2d",
    "create_block_mask",
    "cross_entropy",
    "distributed",
    "dropout",
    "einsum",
    "embedding",
    "empty",
    "enable_grad",
    "eye",
    "flash_attn_3_func",
    "flash_attn_func",
    "flash_attn_varlen_func",
    "flex_attention",
    "float16",
    "float32",
    "float64",
    "full",
    "grouped_mm",
    "int32",
    "int64",
    "is_grad_enabled",
    "layer_norm",
    "linear",
    "mul",
    "next_action",
    "no_grad",
    "ones",
    "ops",
    "randint",
    "randn",
    "rms_norm",
    "same_version",
    "saved_tensors_hooks",
    "scaled_dot_product_attention",
    "scope",
    "scope_of",
    "split_with_sizes_copy",
    "stack",
    "te_gemm",
    "uint8",
    "uint64",
    "where",
    "zeros",
]

"""Operators whose shapes PyTorch computes on numbers alone: computed on symbols.

Padding and Fourier transforms fix sizes there or fail, and backward of resampling takes no symbols; `baddbmm` of a
constant, copies of views, and elementwise operators in C++'s TensorIterator raise an error. What they allocate is
recorded as of the operator itself. Grouped matrix products (mixtures of experts) are here too, since PyTorch's fake
kernel takes them in bfloat16 alone.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.private.dispatch import decompositions, has_symbols, schema_of, tree_leaves

aten = torch.ops.aten
_ROW_ALIGNMENT = 16  # bytes to which rows of a grouped product are padded: aten/src/ATen/native/GroupedMMUtils.h


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    """The operator's results. Raises what the operator does, where that has nothing to do with symbols."""
    if func is aten._grouped_mm.default:
        return _grouped_mm(*args, **kwargs)
    if func in _ON_SYMBOLS and _has_symbols(args, kwargs):
        return _ON_SYMBOLS[func](*args, **kwargs)
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        again = _decomposed(func, str(error)) if _has_symbols(args, kwargs) else None
        if again is None:
            raise
        return again(*args, **kwargs)


def _grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """The result of `torch._grouped_mm`: of (S, k) and (g, k, n), of (m, S) and (S, n), or of three dimensions each."""
    flat = a.dim() == 2, b.dim() == 2
    sizes: list[Any]
    if all(flat):
        assert offs is not None
        sizes = [offs.shape[0], a.shape[0], b.shape[1]]
    elif any(flat):
        sizes = [a.shape[-2], b.shape[-1]]
    else:
        sizes = [a.shape[0], a.shape[1], b.shape[-1]]
    dtype = out_dtype or a.dtype
    step = _ROW_ALIGNMENT // dtype.itemsize
    row = (sizes[-1] + step - 1) // step * step
    strides = [row, 1] if len(sizes) == 2 else [sizes[1] * row, row, 1]
    return torch.empty_strided(sizes, strides, dtype=dtype)


def _has_symbols(*values: Any) -> bool:
    leaves = tree_leaves(values)
    return any(isinstance(x, torch.SymInt) or (isinstance(x, Tensor) and has_symbols(x)) for x in leaves)


def _decomposed(func: Any, error: str) -> Callable[..., Any] | None:
    """A decomposition into other operators; for an elementwise one, a result of the same shape, dtype and layout."""
    if func in decompositions():
        return decompositions()[func]
    return _added if "TensorIterator" in error and len(schema_of(func).returns) == 1 else None


def _added(*args: Any, **_: Any) -> Tensor:
    return reduce(torch.add, (x for x in args if isinstance(x, Tensor)))


def _padded(x: Tensor, pad: Sequence[Any], value: float = 0) -> Tensor:
    """`pad` holds what is added before and after, the last dimension first."""
    sizes = list(x.shape)
    for i in range(len(pad) // 2):
        sizes[-1 - i] = sizes[-1 - i] + pad[2 * i] + pad[2 * i + 1]
    return x.new_empty(sizes)


def _of_input(gradient: Tensor, output_size: Any, input_size: Sequence[Any], *_: Any, **__: Any) -> Tensor:
    return gradient.new_empty(input_size)


def _to_complex(x: Tensor, dims: Sequence[int], _: int, one_sided: bool) -> Tensor:
    sizes = list(x.shape)
    if one_sided:
        # A real signal's spectrum is symmetric: half of it is kept.
        sizes[dims[-1]] = sizes[dims[-1]] // 2 + 1
    return x.new_empty(sizes, dtype=x.dtype.to_complex())


def _to_real(x: Tensor, dims: Sequence[int], _: int, last: Any) -> Tensor:
    sizes = list(x.shape)
    sizes[dims[-1]] = last
    return x.new_empty(sizes, dtype=x.dtype.to_real())


_RESAMPLED = ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "trilinear3d", "bicubic2d")
_ON_SYMBOLS: dict[Any, Callable[..., Tensor]] = {
    aten.constant_pad_nd.default: _padded,
    aten._fft_r2c.default: _to_complex,
    aten._fft_c2r.default: _to_real,
    aten._fft_c2c.default: lambda x, *_: x.new_empty(x.shape),
    **{getattr(aten, f"upsample_{name}_backward").default: _of_input for name in _RESAMPLED},
}

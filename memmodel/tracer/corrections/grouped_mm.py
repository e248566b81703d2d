"""Matrix products of groups of rows (mixtures of experts), which PyTorch's fake kernel takes in bfloat16 alone.

Source: aten/src/ATen/native/GroupedMMUtils.h (create_grouped_gemm_output_tensor): the rows of the result are padded to
16 bytes; other element types run as one product for each group.
"""

from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes


def grouped_mm(
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
    step = _ALIGNMENT // dtype.itemsize
    row = (sizes[-1] + step - 1) // step * step
    strides = [row, 1] if len(sizes) == 2 else [sizes[1] * row, row, 1]
    return torch.empty_strided(sizes, strides, dtype=dtype)

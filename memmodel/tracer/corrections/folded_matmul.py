"""`matmul` on symbols, for PyTorch whose C++ asks for plain sizes there: folded onto bmm and mm as C++ does.

Source: aten/src/ATen/native/LinearAlgebra.cpp, _matmul_impl; the same rule as `memmodel.rules.products.matmul`.
"""

from typing import Any

import torch
from torch import Tensor

from memmodel.tracer.corrections.torch_types import plain_dims

PLAIN_SIZES = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13)


def folds(a: Any, b: Any) -> bool:
    """Whether these operands are multiplied here: at least one has a symbol, and both have two dimensions or more."""
    tensors = isinstance(a, Tensor) and isinstance(b, Tensor) and min(a.dim(), b.dim()) >= 2
    return tensors and any(isinstance(size, torch.SymInt) for size in (*a.shape, *b.shape))


def folded(a: Tensor, b: Tensor) -> Tensor:
    """The product of the last two dimensions, broadcast over the others."""
    if a.dim() == b.dim() == 2:
        return a.mm(b)
    unsafe_view = torch.ops.aten._unsafe_view.default
    if b.dim() == 2 and (b.requires_grad or a.is_contiguous()):
        rows = a.reshape(-1, a.shape[-1])
        return unsafe_view(rows.mm(b), (*a.shape[:-1], b.shape[-1]))  # type: ignore[no-any-return]
    batch = _batch(a, b)
    count: Any = 1
    for size in batch:
        count = count * size
    left = a.expand(*batch, *a.shape[-2:]).reshape(count, *a.shape[-2:])
    right = b.expand(*batch, *b.shape[-2:]).reshape(count, *b.shape[-2:])
    out: Tensor = unsafe_view(left.bmm(right), (*batch, a.shape[-2], b.shape[-1]))
    del right, left  # C++ destroys locals in reverse
    return out


def _batch(a: Tensor, b: Tensor) -> Any:
    first, second = a.shape[:-2], b.shape[:-2]
    if not second or plain_dims(first) == plain_dims(second):
        return first
    return torch.broadcast_shapes(first, second) if first else second  # type: ignore[no-untyped-call]

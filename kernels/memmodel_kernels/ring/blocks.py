"""Flash attention of one block of a ring: PyTorch's kernel with its log-sum-exp, which its backward can be given.

With the log-sum-exp of all keys, the kernel's backward for some of them gives their exact part of every gradient
(FlashAttention-2, section 3.1.1), so that a ring needs no kernel of its own.
"""

from typing import Any

import torch
from torch import Tensor


def _attention(name: str) -> Any:
    return getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention{name}")


def block(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention of queries (batch, heads, rows, head dim) to some keys, and its log-sum-exp (batch, heads, rows)."""
    if q.device.type == "cuda":
        out, lse, *_ = _attention("")(q, k, v, 0.0, causal)
    else:
        out, lse = _attention("_for_cpu")(q, k, v, 0.0, causal)
    return out, lse


def block_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values from these keys; `out` and `lse` are those of all keys."""
    if q.device.type != "cuda":
        given = (grad, q, k, v, out, lse, 0.0, causal)
        found: Any = _attention("_for_cpu_backward")(*given)
        return found[0], found[1], found[2]
    state = torch.zeros(2, dtype=torch.uint64, device=q.device)
    rows, columns = q.shape[2], k.shape[2]
    found = _attention("_backward")(grad, q, k, v, out, lse, None, None, rows, columns, 0.0, causal, state, state[:0])
    return found[0], found[1], found[2]

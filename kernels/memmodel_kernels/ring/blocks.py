"""Flash attention of one block of a ring: the library's kernel with its log-sum-exp, which its backward can be given.

With the log-sum-exp of all keys, the kernel's backward for some of them gives their exact part of every gradient
(FlashAttention-2, section 3.1.1), so that a ring needs no kernel of its own.
"""

from typing import Any

from memmodel_kernels.namespace import namespace


def _attention(x: Any, name: str) -> Any:
    return getattr(namespace(x).ops.aten, f"_scaled_dot_product_flash_attention{name}")


def _on_cpu(x: Any) -> bool:
    return str(x.device).startswith("cpu")


def block(q: Any, k: Any, v: Any, causal: bool) -> tuple[Any, Any]:
    """Attention of queries (batch, heads, rows, head dim) to some keys, and its log-sum-exp (batch, heads, rows)."""
    out, lse, *_ = _attention(q, "_for_cpu" if _on_cpu(q) else "")(q, k, v, dropout_p=0.0, is_causal=causal)
    return out, lse


def block_backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, causal: bool) -> tuple[Any, Any, Any]:
    """Gradients of queries, keys and values from these keys; `out` and `lse` are those of all keys."""
    if _on_cpu(q):
        found = _attention(q, "_for_cpu_backward")(grad, q, k, v, out, lse, dropout_p=0.0, is_causal=causal)
        return found[0], found[1], found[2]
    xp, rows, columns = namespace(q), q.shape[2], k.shape[2]
    # Random numbers for dropout, of which there is none.
    state = xp.zeros(2, dtype=xp.uint64, device=q.device)
    found = _attention(q, "_backward")(
        grad, q, k, v, out, lse, None, None, rows, columns, dropout_p=0.0, is_causal=causal,
        philox_seed=state, philox_offset=state[:0],
    )  # fmt: skip
    return found[0], found[1], found[2]

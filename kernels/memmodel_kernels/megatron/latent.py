"""Queries, keys and values of multi-head latent attention, as Megatron-LM makes them.

Source: Megatron-LM 0.14, megatron/core/transformer/multi_latent_attention.py (MLASelfAttention) with
fusions/fused_mla_yarn_rope_apply.py: queries turn in place; keys and values are written anew.
"""

from functools import cache
from typing import Any

from memmodel_kernels.kernel import fused
from memmodel_kernels.megatron.modules import turned
from memmodel_kernels.namespace import namespace


def latent_operands(q: Any, kv: Any, shared: Any, table: Any, sizes: tuple[Any, ...]) -> Any:
    """q and k (b, n, heads, d), v (b, n, heads, e) of q (tokens, heads d), kv (tokens, heads (d - r + e)).

    `shared`: the r channels of keys (tokens, r) that turn, which all heads share. `sizes`: b, heads, d, e and r.
    """
    return _function(namespace(q)).apply(q, kv, shared, table, sizes)


@cache
def _function(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class Latent(base):  # type: ignore[misc]
        """Keeps nothing but what attention does."""

        @staticmethod
        def forward(ctx: Any, q: Any, kv: Any, shared: Any, table: Any, sizes: tuple[Any, ...]) -> Any:
            b, heads, d, e, r = sizes
            n = q.shape[0] // b
            queries = q.view(b, n, heads, d)
            k, v = kv.new_empty(b, n, heads, d), kv.new_empty(b, n, heads, e)

            def compute() -> None:
                parts = kv.view(b, n, heads, -1)
                queries[..., d - r :] = turned(queries[..., d - r :], table)
                k[..., : d - r] = parts[..., : d - r]
                k[..., d - r :] = turned(shared.view(b, n, 1, r), table)
                v.copy_(parts[..., d - r :])

            fused("rope", (q, kv, shared, *(() if table is None else (table,))), (q, k, v), compute)
            ctx.sizes, ctx.table = sizes, table
            return queries, k, v

        @staticmethod
        def backward(ctx: Any, of_q: Any, of_k: Any, of_v: Any) -> Any:
            b, heads, d, e, r = ctx.sizes
            of_q, of_k, of_v = of_q.contiguous(), of_k.contiguous(), of_v.contiguous()
            n = of_q.shape[1]
            of_kv, of_shared = of_k.new_empty(b * n, heads * (d - r + e)), of_k.new_empty(b * n, r)

            def compute() -> None:
                of_q[..., d - r :] = turned(of_q[..., d - r :], ctx.table, -1)
                parts = of_kv.view(b, n, heads, -1)
                parts[..., : d - r] = of_k[..., : d - r]
                parts[..., d - r :] = of_v
                # All heads read these channels: their gradients are added up.
                of_shared.copy_(turned(of_k[..., d - r :].sum(2, keepdim=True), ctx.table, -1).view(b * n, r))

            fused("rope_backward", (of_q, of_k, of_v), (of_q, of_kv, of_shared), compute, gradient=True)
            return of_q.view(b * n, heads * d), of_kv, of_shared, None, None

    return Latent

"""Multi-head latent attention: keys and values are made from one latent a token, which is all that a cache holds.

DeepSeek-AI, "DeepSeek-V2" (2024), as transformers' DeepseekV3Attention writes it, with keys joined by `cat`.
"""

from typing import Any

from memmodel_kernels.fused import fused
from memmodel_kernels.namespace import namespace
from memmodel_kernels.norms import norm
from memmodel_kernels.rotary import TURNING, turned_pairs


def latent_projections(x: Any, model: Any, weights: Any, rotary: Any, cache: Any) -> tuple[Any, Any, Any]:
    """Queries and keys (b, h, n, d) and values (b, h, n, e) of x (b, n, hidden); `model` is a `Decoder`.

    Where ranks share the heads, each of them has the latents, of own tokens where these are shared too, and turns the
    channels that all heads share.
    """
    arch, mla, xp = model.arch, model.arch.mla, namespace(x)
    plain = arch.head_dim - mla.rope
    queries = _queries(x, model, weights)
    b, n = queries.shape[:2]
    queries = queries.view(b, n, -1, arch.head_dim).transpose(1, 2)
    q_plain, q_turned = queries.split([plain, mla.rope], dim=-1)
    latent, k_turned = model.linear(x, weights, "kv_down").split([mla.kv_rank, mla.rope], dim=-1)
    latent = _normed(latent, model, weights, "kv_norm")
    if model.tensor is None:
        latent = latent.view(b, 1, n, mla.kv_rank)
    else:
        k_turned = model.tensor.entered(k_turned)
    k_turned = k_turned.view(b, 1, n, mla.rope)
    turning = (q_turned, k_turned, *rotary)
    q_turned, k_turned = fused(turned_pairs, *turning, **TURNING) if model.compiled else turned_pairs(*turning)
    if cache is not None:
        latent, k_turned = cache(latent, k_turned)
    q = xp.cat((q_plain, q_turned), dim=-1)
    k, v = _expanded(latent, k_turned, model, weights, plain)
    return q, k, v


def _queries(x: Any, model: Any, weights: Any) -> Any:
    if not model.arch.mla.q_rank:
        return model.columns(x, weights, "q")[0]
    latent = _normed(model.linear(x, weights, "q_down"), model, weights, "q_norm")
    return model.columns(latent, weights, "q_up")[0]


def _normed(latent: Any, model: Any, weights: Any, name: str) -> Any:
    return norm(latent, weights, name, "rmsnorm", compiled=model.compiled)


def _expanded(latent: Any, k_turned: Any, model: Any, weights: Any, plain: Any) -> tuple[Any, Any]:
    """Keys and values of every head, from the latents and the channels (b, 1, m, rope) that all heads share."""
    arch = model.arch
    b, _, m, _ = k_turned.shape
    both = model.columns(latent, weights, "kv_up")[0].view(b, m, -1, plain + arch.value_dim).transpose(1, 2)
    k_plain, v = both.split([plain, arch.value_dim], dim=-1)
    shared = k_turned.expand(-1, k_plain.shape[1], -1, -1)
    return namespace(latent).cat((k_plain, shared), dim=-1), v

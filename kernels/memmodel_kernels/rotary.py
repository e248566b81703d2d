"""Rotary positions: pairs of channels turned by angles that grow with the position.

Su et al., "RoFormer: Enhanced transformer with rotary position embedding" (2021), as Hugging Face's classes write it:
channel i is paired with channel i + d/2.
"""

from typing import Any

from memmodel.sizes.dims import same
from memmodel_kernels.namespace import namespace


def angles(frequencies: Any, positions: Any, dtype: Any) -> tuple[Any, Any]:
    """cos and sin (1, n, d), from frequencies (d/2,) in fp32 and positions (1, n), computed in fp32."""
    xp = namespace(frequencies)
    inverse = frequencies[None, :, None].float().expand(positions.shape[0], -1, 1)
    where = positions[:, None, :].float()
    turns = (inverse @ where).transpose(1, 2)
    both = xp.cat((turns, turns), -1)
    # By attention_scaling, which is 1 for positions that are not stretched.
    cos, sin = both.cos() * 1.0, both.sin() * 1.0
    return cos.to(dtype), sin.to(dtype)


TURNING: Any = {"results": 2, "kept": (2, 3)}  # compiled: queries and keys, whose gradient depends on cos and sin alone


def turned(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """q and k (b, heads, n, d), turned by cos and sin (1, n, r); channels beyond the first r stay as they are."""
    if not same(cos.shape[-1], q.shape[-1]):
        return turned_in_part(q, k, cos, sin)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return (q * cos) + (_half_turned(q) * sin), (k * cos) + (_half_turned(k) * sin)


def turned_in_part(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """The same, joined from both parts where one of them has all channels too: heads lie apart then (Phi-3)."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return _partly(q, cos, sin), _partly(k, cos, sin)


def turned_by_fp32(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """`turned` by cos and sin in fp32, which products with them are in too (OLMo)."""
    dtype = q.dtype
    q, k = turned(q, k, cos, sin)
    return q.to(dtype), k.to(dtype)


def turned_neighbours(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """The same with neighbouring channels as pairs, in fp32 (Cohere)."""
    dtype = q.dtype
    q, k = q.float(), k.float()
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    q, k = (q * cos) + (_neighbours_turned(q) * sin), (k * cos) + (_neighbours_turned(k) * sin)
    return q.to(dtype), k.to(dtype)


def turned_in_fp32(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """`turned`, in fp32 (ModernBERT)."""
    dtype = q.dtype
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    q_turned = (q.float() * cos) + (_half_turned(q.float()) * sin)
    k_turned = (k.float() * cos) + (_half_turned(k.float()) * sin)
    return q_turned.to(dtype), k_turned.to(dtype)


def _neighbours_turned(x: Any) -> Any:
    first, second = x[..., 0::2], x[..., 1::2]
    return namespace(x).stack([-second, first], dim=-1).reshape(x.shape)


def _partly(x: Any, cos: Any, sin: Any) -> Any:
    width = cos.shape[-1]
    turning, rest = x[..., :width], x[..., width:]
    return namespace(x).cat([(turning * cos) + (_half_turned(turning) * sin), rest], -1)


def _half_turned(x: Any) -> Any:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return namespace(x).cat((-second, first), -1)


def turned_pairs(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """Rotary positions of paired channels 2i and 2i + 1, without reordering them first (DeepSeek-V3)."""
    half = cos.shape[-1] // 2
    cos, sin = cos[..., :half].unsqueeze(1), sin[..., :half].unsqueeze(1)
    xp = namespace(q)
    q1, q2 = q[..., 0::2], q[..., 1::2]
    k1, k2 = k[..., 0::2], k[..., 1::2]
    q = xp.cat([q1 * cos - q2 * sin, q2 * cos + q1 * sin], dim=-1)
    k = xp.cat([k1 * cos - k2 * sin, k2 * cos + k1 * sin], dim=-1)
    return q, k


# How queries and keys turn, by name in an architecture: which channels are a pair, and whether in fp32.
TURNS = {
    **{"halves": turned, "halves-part": turned_in_part, "halves-by-fp32": turned_by_fp32},
    **{"halves-fp32": turned_in_fp32, "neighbours": turned_neighbours},
}

"""FlexAttention, compiled: PyTorch writes a fused kernel that visits only the blocks that a block mask leaves."""

from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel.sizes.dims import same
from memmodel_kernels.namespace import namespace


def flex(
    q: Any,
    k: Any,
    v: Any,
    mask: Mask = NO_MASK,
    block_mask: Any = None,
    bias: Any = None,
    softcap: float | None = None,
) -> Any:
    """`flex_attention` under torch.compile. Shapes and `bias` as for `naive`.

    `block_mask` is made of `mask` unless given. A bias and a soft cap are the score function's.
    """
    xp, n, m = namespace(q), q.shape[-2], k.shape[-2]
    if xp.__name__ != "torch":
        from memmodel.recording import create_block_mask, flex_attention

        return flex_attention(q, k, v, block_mask or create_block_mask(mask, n, m), bias)
    from torch.nn.attention import flex_attention as library

    if block_mask is None and mask.causal:
        block_mask = library.create_block_mask(_seen(mask, m - n), None, None, n, m, device=q.device)
    attend = xp.compile(library.flex_attention)
    changes = None if bias is None and softcap is None else _changed(bias, softcap)
    return attend(q, k, v, score_mod=changes, block_mask=block_mask, enable_gqa=not same(q.shape[1], k.shape[1]))


def _changed(bias: Any, softcap: float | None) -> Any:
    """The change of scores as a function of score, batch, head, query and key."""

    def change(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        if softcap is not None:
            score = (score / softcap).tanh() * softcap
        if bias is None:
            return score
        if bias.dim() == 1:
            return score + bias[head] * key
        return score + bias[batch if bias.shape[0] > 1 else 0, head if bias.shape[1] > 1 else 0, query, key]

    return change


def _seen(mask: Mask, offset: int) -> Any:
    """The mask as a function of batch, head, query and key."""

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        last = query + offset
        if mask.window is None:
            return key <= last
        near = key > last - mask.window
        return (key <= last) & (near | (key < mask.sinks) if mask.sinks else near)

    return sees

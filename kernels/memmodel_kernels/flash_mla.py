"""A step over a cache of latents by the FlashMLA package: absorbed latent attention, as DeepSeek-V2 and V3 decode."""

from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel_kernels.namespace import namespace


def flash_mla(
    q: Any,
    new: Any,
    pages: Any,
    block_table: Any,
    metadata: Any,
    num_splits: Any,
    keys: Any,
    mask: Mask = NO_MASK,
) -> Any:
    """Write the new tokens' rows into the cache, and attend to what the mask lets through.

    Args:
        q: (b, n, h, 576) queries, with the matrix that would make keys multiplied in.
        new: (b · n, 576), the latent and the rotary channels of each new token.
        pages: (p, 64, 1, 576), the cache.
        block_table: (b, pages of a sequence) int32.
        metadata: (parts, 8) int32, of `get_mla_metadata`: once a step for all layers.
        num_splits: (b + 1,) int32, of the same.
        keys: of a sequence, the new ones included.
        mask: none, or causal among the new tokens.

    Returns (b, n, h, 512), which the matrix of values is then multiplied with.
    """
    rows = pages.view(-1, pages.shape[-1])
    rows.narrow(0, 0, new.shape[0]).copy_(new)  # of the rows that the table tells: as many bytes
    if namespace(q).__name__ != "torch":
        from memmodel.rules.flash_mla import flash_mla_with_kvcache

        return flash_mla_with_kvcache(q, pages, block_table, metadata, num_splits, keys, mask)
    import torch
    from flash_mla import flash_mla_with_kvcache as library

    lengths = torch.full((q.shape[0],), keys, dtype=torch.int32, device=q.device)
    output, _ = library(q, pages, block_table, lengths, pages.shape[-1] - 64, metadata, num_splits, causal=mask.causal)
    return output

"""One decoding step over a KV cache, as servers run it: one fused kernel that reads the cache once.

Query heads that share a key head are rows of one tile, and so are several new tokens of a sequence (flash-attention,
csrc/flash_attn/flash_api.cpp, seqlenq_ngroups_swapped; FlashAttention-3's PackGQA). With few sequences that leaves most
SMs idle, so that programs take parts of the keys, and their sums are combined: Dao et al., "Flash-Decoding for
long-context inference" (2023). FlashAttention combines them in a second launch, trtllm-gen in the same; here it is one.
"""

from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel.attention.tiles import Tile
from memmodel.rules.flash_buffers import keys_of_a_block, rounded, splits
from memmodel.sizes.dims import Dim, ceil_div
from memmodel_kernels.flash import LOWEST, online_softmax
from memmodel_kernels.kernel import Part, kernel
from memmodel_kernels.namespace import namespace

_ROWS = 64  # of a tile: kBlockM of flash-attention's split kernel


def decode_tile(head_dim: Dim) -> Tile:
    """The tile of flash-attention's split kernel (run_mha_fwd_splitkv_dispatch); 128 keys where d is not a number."""
    if not isinstance(head_dim, int):
        return Tile(_ROWS, 128)
    return Tile(_ROWS, keys_of_a_block(head_dim))


def num_splits(batch: int, kv_heads: int, rows: int, keys: int, head_dim: int, sms: int) -> int:
    """The number of splits of the keys (num_splits_heuristic of flash_api.cpp). `rows`: a group's heads x tokens."""
    tile = decode_tile(head_dim)
    return splits(batch * kv_heads * ceil_div(rows, tile.rows), 2 * sms, ceil_div(keys, tile.cols))


def decode(
    q: Any,
    new_k: Any,
    new_v: Any,
    k_cache: Any,
    v_cache: Any,
    mask: Mask = NO_MASK,
    block_table: Any = None,
    keys: Dim = None,
    parts: int = 1,
) -> Any:
    """Write the new keys and values to the end of the caches, and attend to what the mask lets through.

    Args:
        q: (b, h, n, d) queries of n new tokens a sequence.
        new_k: (b, g, n, d), their keys; h is a multiple of g.
        new_v: (b, g, n, e), their values.
        k_cache: (b, g, m, d) in any floating type; with a block table, pages (p, g, size, d).
        v_cache: (b, g, m, e), or pages (p, g, size, e).
        mask: the keys that a query sees; the n queries are the last of the m keys.
        block_table: (b, ceil(m / size)) int32, the pages of each sequence in order.
        keys: m, which a block table does not tell.
        parts: in how many parts the keys are read (`num_splits`).

    Returns the output, (b, h, n, e). Sums of parts are fp32 buffers, of flash-attention's sizes, until it returns.
    """
    xp = namespace(q)
    (b, h, n, d), g, e = q.shape, k_cache.shape[1], v_cache.shape[-1]
    m = k_cache.shape[2] if block_table is None else keys
    tile, rows_of_all = decode_tile(d), h // g * n
    first = m - mask.keys(n, m)
    packed = q.reshape(b, g, rows_of_all, d)
    out, lse = q.new_empty(b, h, n, e), q.new_empty(b, h, n, dtype=xp.float32)
    packed_out, packed_lse = out.reshape(b, g, rows_of_all, e), lse.reshape(b, g, rows_of_all)
    sums = lse_of_parts = None
    if parts > 1:
        width = rounded(e, 32 if e <= 128 else 64)  # as flash-attention's
        lse_of_parts = q.new_empty(b, g * parts, rows_of_all, dtype=xp.float32)
        sums = q.new_empty(b, g * parts, rows_of_all, width, dtype=xp.float32)
    token = Part(b * g * (d + e) * k_cache.dtype.itemsize)
    older, newest = Part(token.nbytes * (m - n - first)), Part(token.nbytes * n)
    reads = (packed, new_k, new_v, older, *(() if block_table is None else (block_table,)))
    scratch = () if parts == 1 else (sums, lse_of_parts)
    with kernel("flash_decoding", reads=reads, writes=(out, lse, newest), scratch=scratch) as on_chip:
        on_chip.append(k_cache, new_k, m - n, block_table)
        on_chip.append(v_cache, new_v, m - n, block_table)
        for rows in on_chip.tiles(rows_of_all, tile.rows):
            q_i = on_chip.load(packed, rows)
            for part, span in on_chip.parts(first, m, tile.cols, parts):
                total = on_chip.full(q_i, (e,), 0.0, xp.float32)
                row_max = on_chip.full(q_i, (1,), LOWEST, xp.float32)
                row_sum = on_chip.full(q_i, (1,), 0.0, xp.float32)
                for cols in on_chip.blocks(span, tile.cols, h // g * mask.pairs(n, m)):
                    k_j, v_j = (on_chip.cached(x, cols, block_table).to(q.dtype) for x in (k_cache, v_cache))
                    scores = (q_i @ k_j.transpose(-2, -1)).to(xp.float32) * d**-0.5
                    scores = on_chip.masked(scores, mask, rows, cols, n, m)
                    total, row_max, row_sum = online_softmax(total, row_max, row_sum, scores, v_j)
                mean = total / xp.where(row_sum > 0, row_sum, 1.0)  # a part without keys: 0
                logs = (row_max + row_sum.log()).squeeze(-1)
                if parts == 1:
                    on_chip.store(packed_out, rows, mean.to(q.dtype))
                    on_chip.store(packed_lse, rows, logs)
                else:
                    on_chip.store_part(sums, rows, part, parts, mean)
                    on_chip.store_part(lse_of_parts, rows, part, parts, logs)
        if parts > 1:
            for rows in on_chip.tiles(rows_of_all, tile.rows):
                means = on_chip.load(sums, rows).unflatten(1, (g, parts)).narrow(-1, 0, e)
                logs = on_chip.load(lse_of_parts, rows).unflatten(1, (g, parts)).unsqueeze(-1)
                most = logs.amax(2, keepdim=True)
                weights = (logs - most).exp()
                whole = weights.sum(2, keepdim=True)
                on_chip.store(packed_out, rows, (means * (weights / whole)).sum(2).to(q.dtype))
                on_chip.store(packed_lse, rows, (most + whole.log()).squeeze(-1).squeeze(2))
    return out

"""Attention as the recorded scripts write it; `xp` is the library, `torch` or `memmodel.recording`.

Shapes: q, k, v (b, n, d) without heads; masks (n, n), true where a pair counts. The scripts' einsum of two
such tensors is one batched product, as `@` is. What differs between them is which local names keep score
matrices alive.
"""

import math
from typing import Any

from memmodel_kernels.compiled import compiled_with
from memmodel_kernels.naive import softmax_by_hand


def handout(xp: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """The course's own, used by most: softmax by hand, whose difference is alive until the division."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = xp.where(mask, scores, float("-inf"))
    weights = softmax_by_hand(scores)
    return weights @ v


def inverted_mask(xp: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """As the handout's, but filled where the mask is false: masked_fill keeps the inverse, a second mask."""
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = softmax_by_hand(scores)
    return weights @ v


def by_amax(xp: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
    """The maximum by amax, which keeps all that it looked at; scale and -inf are scalars on the GPU."""
    scores = q @ k.transpose(-2, -1) / xp.full((), math.sqrt(q.shape[-1]), device="cuda")
    least = xp.full((), float("-inf"), device="cuda")
    scores = xp.where(mask, scores, least)
    weights = _softmax_by_amax(scores)
    return weights @ v


def unnamed_difference(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """Softmax by hand whose difference has no name: it dies once exponentiated."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    weights = _softmax_of_unnamed_difference(scores)
    return weights @ v


def library_softmax(xp: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """The library's softmax."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = xp.where(mask, scores, float("-inf"))
    weights = scores.softmax(-1)
    return weights @ v


def library_softmax_by_positions(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """The library's softmax, under a causal mask that is made of positions in every call."""
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]))
    rows, columns = (xp.arange(q.shape[-2], device="cuda") for _ in range(2))
    scores = scores.masked_fill(rows.unsqueeze(1) < columns.unsqueeze(0), float("-inf"))
    weights = scores.softmax(-1)
    return weights @ v


def compiled_by_hand(xp: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """torch.compile of a softmax by hand."""
    return _compiled(xp, handout, q, k, v, mask, by_hand=True)


def compiled_library_softmax(xp: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """torch.compile of the library's softmax."""
    return _compiled(xp, library_softmax, q, k, v, mask, by_hand=False)


def at_most_eight_graphs(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """torch.compile, its limit of 8 graphs spent: scores beyond int32 indices need one more, so run eager.

    Brandon's function is compiled twice (with and without gradients) for a first shape, for symbolic lengths,
    for int64 indices and for symbolic head dims. At d = 128 and n = 16384 its times are the eager ones (54.42
    ms against 54.20 ms), and its author finds no benefit there. That the limit is the cause is inferred.
    """
    int32_indices = q.shape[0] * q.shape[1] * k.shape[1] < 2**31
    return (compiled_by_hand if int32_indices else handout)(xp, q, k, v)


def last_size_runs_eager(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """torch.compile of the library's softmax, its limit of 8 graphs spent when the last size comes.

    TianqGuo compiles one function for 20 sizes in one process. At d = 128 and n = 16384 the peak is the eager one to
    the byte, as are the times (35.17 ms against 35.17 ms).
    """
    last = q.shape[1:] == (16384, 128)
    return (library_softmax if last else compiled_library_softmax)(xp, q, k, v)


def flash_benchmark(xp: Any, q: Any, k: Any, v: Any, causal: bool) -> Any:
    """The standard attention that FlashAttention's authors compare with; shapes (b, n, h, d).

    Dao-AILab/flash-attention, benchmarks/benchmark_flash_attention.py: scores by one baddbmm, a causal mask of -10000
    that is added to them.
    """
    b, n, h, d = q.shape
    rows = q.transpose(1, 2).reshape(b * h, n, d)
    columns = k.permute(0, 2, 3, 1).reshape(b * h, d, n)
    empty = xp.empty(b * h, n, n, dtype=q.dtype, device=q.device)
    scores = xp.baddbmm(empty, rows, columns, beta=0, alpha=1 / math.sqrt(d)).reshape(b, h, n, n)
    if causal:
        scores = scores + xp.full((n, n), -10000.0, device=q.device).triu(1).to(q.dtype)
    return xp.einsum("bhts,bshd->bthd", scores.softmax(-1), v)


def _compiled(xp: Any, attention: Any, q: Any, k: Any, v: Any, mask: Any, by_hand: bool) -> Any:
    if xp.__name__ == "torch":
        masks = () if mask is None else (mask,)
        return xp.compile(attention)(xp, q, k, v, *masks)
    out = compiled_with(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), blocked=mask, by_hand=by_hand)
    return out.squeeze(1)


def _softmax_of_unnamed_difference(x: Any) -> Any:
    powers = (x - x.max(-1, keepdim=True)[0]).exp()
    return powers / powers.sum(-1, keepdim=True)


def _softmax_by_amax(x: Any) -> Any:
    x = x - x.amax(-1, keepdim=True)
    powers = x.exp()
    return powers / powers.sum(-1, keepdim=True)

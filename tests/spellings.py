"""Attention as people write it: each function runs on torch and on recording tensors. `t` is either library.

Shapes: q, k, v (B, H, N, D). Sizes are unlike each other, so that a wrong tensor shows in its bytes.
"""

import math
from typing import Any

from memmodel_kernels.namespace import checkpoint

B, H, N, D = 2, 3, 200, 24


def library_softmax(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    probs = t.softmax(scores, -1)
    return probs @ v


def one_liner(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.softmax(q @ k.transpose(-2, -1) / math.sqrt(D), -1) @ v


def scale_by_product(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.softmax((q @ k.mT) * 0.3, -1) @ v


def scaled_query(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.softmax((q * 0.3) @ k.transpose(-2, -1), -1) @ v


def scale_in_place(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1)
    scores /= math.sqrt(D)
    return t.softmax(scores, -1) @ v


def scale_mul_in_place(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1)
    scores.mul_(0.3)
    return t.softmax(scores, -1) @ v


def masked_fill(t: Any, q: Any, k: Any, v: Any) -> Any:
    keep = t.ones(N, N, dtype=t.bool).tril()
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    scores = scores.masked_fill(~keep, float("-inf"))
    return t.softmax(scores, -1) @ v


def masked_fill_new_name(t: Any, q: Any, k: Any, v: Any) -> Any:
    keep = t.ones(N, N, dtype=t.bool).tril()
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    masked = scores.masked_fill(~keep, float("-inf"))
    probs = t.softmax(masked, -1)
    return probs @ v


def masked_fill_in_place(t: Any, q: Any, k: Any, v: Any) -> Any:
    blocked = t.ones(N, N, dtype=t.bool).triu(1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    scores.masked_fill_(blocked, float("-inf"))
    return t.softmax(scores, -1) @ v


def where(t: Any, q: Any, k: Any, v: Any) -> Any:
    keep = t.ones(N, N, dtype=t.bool).tril()
    scores = t.where(keep, q @ k.transpose(-2, -1), float("-inf"))
    return t.softmax(scores, -1) @ v


def arange_mask(t: Any, q: Any, k: Any, v: Any) -> Any:
    position = t.arange(N)
    keep = position[:, None] >= position[None, :]
    scores = t.where(keep, q @ k.transpose(-2, -1), float("-inf"))
    return t.softmax(scores, -1) @ v


def additive_mask(t: Any, q: Any, k: Any, v: Any) -> Any:
    bias = t.zeros(N, N, dtype=q.dtype)
    return t.softmax(q @ k.mT + bias, -1) @ v


def softmax_by_hand(t: Any, q: Any, k: Any, v: Any) -> Any:
    def softmax(x: Any) -> Any:
        shifted = x - t.max(x, -1, keepdim=True)[0]
        powers = t.exp(shifted)
        return powers / t.sum(powers, -1, keepdim=True)

    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    probs = softmax(scores)
    return probs @ v


def softmax_by_amax(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    powers = t.exp(scores - scores.amax(-1, keepdim=True))
    probs = powers / powers.sum(-1, keepdim=True)
    return probs @ v


def softmax_by_detached_amax(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    powers = t.exp(scores - scores.amax(-1, keepdim=True).detach())
    probs = powers / powers.sum(-1, keepdim=True)
    return probs @ v


def softmax_by_logsumexp(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    probs = t.exp(scores - t.logsumexp(scores, -1, keepdim=True))
    return probs @ v


def softmax_in_place(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1)
    scores = scores - scores.amax(-1, keepdim=True).detach()
    scores.exp_()
    return (scores / scores.sum(-1, keepdim=True)) @ v


def softmax_in_float(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.mT
    probs = t.softmax(scores.float(), -1).type_as(scores)
    return probs @ v


def softmax_dtype(t: Any, q: Any, k: Any, v: Any) -> Any:
    probs = t.softmax(q @ k.mT, -1, dtype=t.float32).to(q.dtype)
    return probs @ v


def dropout(t: Any, q: Any, k: Any, v: Any) -> Any:
    probs = t.dropout(t.softmax(q @ k.mT, -1), 0.1, True)
    return probs @ v


def heads_last(t: Any, q: Any, k: Any, v: Any) -> Any:
    q, k, v = (x.reshape(B, N, H, D).transpose(1, 2) for x in (q, k, v))
    probs = t.softmax(q @ k.transpose(-2, -1) / math.sqrt(D), -1)
    return (probs @ v).reshape(B, H, N, D)


def heads_last_merged(t: Any, q: Any, k: Any, v: Any) -> Any:
    q, k, v = (x.reshape(B, N, H, D).transpose(1, 2) for x in (q, k, v))
    probs = t.softmax(q @ k.transpose(-2, -1) / math.sqrt(D), -1)
    return (probs @ v).transpose(1, 2).reshape(B, H, N, D)


def three_dimensions(t: Any, q: Any, k: Any, v: Any) -> Any:
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return t.bmm(t.softmax(t.bmm(q, k.mT), -1), v).unflatten(0, (B, H))


def each_head(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.stack([t.softmax(q[:, h] @ k[:, h].mT, -1) @ v[:, h] for h in range(H)], 1)


def each_matrix(t: Any, q: Any, k: Any, v: Any) -> Any:
    rows = [[t.softmax(q[b, h] @ k[b, h].mT, -1) @ v[b, h] for h in range(H)] for b in range(B)]
    return t.stack([t.stack(row) for row in rows])


def baddbmm(t: Any, q: Any, k: Any, v: Any) -> Any:
    q, k, v = (x.reshape(B * H, N, D) for x in (q, k, v))
    base = t.empty(B * H, N, N, dtype=q.dtype)
    scores = t.baddbmm(base, q, k.transpose(1, 2), beta=0, alpha=0.3)
    return t.bmm(t.softmax(scores, -1), v).view(B, H, N, D)


def repeated_heads(t: Any, q: Any, k: Any, v: Any) -> Any:
    k, v = (x[:, :1].repeat_interleave(H, dim=1) for x in (k, v))
    return t.softmax(q @ k.mT, -1) @ v


def expanded_heads(t: Any, q: Any, k: Any, v: Any) -> Any:
    k, v = (x[:, :1, None].expand(B, 1, H, N, D).reshape(B, H, N, D) for x in (k, v))
    return t.softmax(q @ k.mT, -1) @ v


def grouped_heads(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q.reshape(B, 1, H, N, D) @ k[:, :1, None].mT
    return (t.softmax(scores, -1) @ v[:, :1, None]).reshape(B, H, N, D)


def split_queries(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.cat([t.softmax(part @ k.mT, -1) @ v for part in q.split(64, dim=2)], 2)


def chunked_queries(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.cat([t.softmax(part @ k.mT, -1) @ v for part in q.chunk(3, dim=2)], 2)


def sliced_queries(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.cat([t.softmax(q[:, :, i : i + 50] @ k.mT, -1) @ v for i in range(0, N, 50)], 2)


def checkpointed(t: Any, q: Any, k: Any, v: Any) -> Any:
    return checkpoint(lambda a, b, c: library_softmax(t, a, b, c), q, k, v)


def checkpointed_by_hand(t: Any, q: Any, k: Any, v: Any) -> Any:
    return checkpoint(lambda a, b, c: softmax_by_hand(t, a, b, c), q, k, v)


def checkpointed_chunks(t: Any, q: Any, k: Any, v: Any) -> Any:
    parts = [checkpoint(lambda a, b, c: one_liner(t, a, b, c), part, k, v) for part in q.split(64, dim=2)]
    return t.cat(parts, 2)


def soft_cap(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = t.tanh(q @ k.mT / 30.0) * 30.0
    return t.softmax(scores, -1) @ v


def shared_projection(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.softmax(q @ q.mT, -1) @ q + k * v


def divided_by_row(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.mT
    return t.softmax(scores / scores.amax(-1, keepdim=True), -1) @ v


def centred(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.mT
    return t.softmax(scores - scores.mean(-1, keepdim=True), -1) @ v


def negated(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.softmax(1.0 - (-(q @ k.mT)), -1) @ v


def reciprocal(t: Any, q: Any, k: Any, v: Any) -> Any:
    powers = t.exp(q @ k.mT)
    return (powers * (1.0 / powers.sum(-1, keepdim=True))) @ v


def tied_scores(t: Any, q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.mT
    return (t.softmax(scores, -1) * scores) @ v


def detached_half(t: Any, q: Any, k: Any, v: Any) -> Any:
    return (t.softmax(q @ k.detach().mT, -1) + k.detach().sum()) @ v


def einsum(t: Any, q: Any, k: Any, v: Any) -> Any:
    probs = t.softmax(t.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(D), -1)
    return t.einsum("bhqk,bhkd->bhqd", probs, v)


def einsum_heads_last(t: Any, q: Any, k: Any, v: Any) -> Any:
    q, k, v = (x.view(B, N, H, D) for x in (q, k, v))
    probs = t.softmax(t.einsum("bqhd,bkhd->bhqk", q, k), -1)
    return t.einsum("bhqk,bkhd->bqhd", probs, v).reshape(B, H, N, D)


def einsum_dots(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.einsum("...qk, ...kd -> ...qd", t.softmax(t.einsum("...qd, ...kd -> ...qk", q, k), -1), v)


def einsum_grouped(t: Any, q: Any, k: Any, v: Any) -> Any:
    grouped = q.view(B, 1, H, N, D)
    probs = t.softmax(t.einsum("bgrqd,bgkd->bgrqk", grouped, k[:, :1]), -1)
    return t.einsum("bgrqk,bgkd->bgrqd", probs, v[:, :1]).reshape(B, H, N, D)


def full_slice(t: Any, q: Any, k: Any, v: Any) -> Any:
    return t.softmax(q[:, :, 0:N] @ k[...].mT, -1) @ v[:, :, :N]


SPELLINGS = [
    function
    for name, function in list(globals().items())
    if callable(function) and getattr(function, "__module__", "") == __name__
]

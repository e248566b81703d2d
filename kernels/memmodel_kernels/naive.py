"""Naive attention: the scores of all queries and keys are a tensor in memory."""

from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel.sizes.dims import same
from memmodel_kernels.bias import numbers
from memmodel_kernels.namespace import namespace


def naive(
    q: Any,
    k: Any,
    v: Any,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    bias: Any = None,
    softcap: float | None = None,
    sinks: Any = None,
) -> Any:
    """softmax(Q K^T / sqrt(d)) V with the library's softmax.

    Shapes: q (b, h, n, d), k (b, g, m, d), v (b, g, m, e) with h a multiple of g; returns (b, h, n, e). `bias` is added
    to the scores: (1 or b, 1 or h, n, m), or ALiBi's slopes (h,). `softcap` c makes them c tanh(scores / c). `sinks`
    (h,) are logits that take part in every row's softmax, as a key without a value would (gpt-oss in Hugging Face).
    """
    xp = namespace(q)
    k, v = repeated(k, q), repeated(v, q)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if bias is not None:
        scores = scores + numbers(bias, q, k.shape[-2])
    blocked = mask.blocked(xp, q, q.shape[-2], k.shape[-2])
    if blocked is not None:
        scores = scores.masked_fill(blocked, float("-inf"))
    if sinks is None:  # noqa: SIM108  # reports name a tensor by what it is assigned to
        probs = scores.softmax(-1)
    else:
        probs = _with_sinks(scores, sinks)
    if dropout:
        probs = xp.dropout(probs, dropout, True)
    return probs @ v


def _with_sinks(scores: Any, sinks: Any) -> Any:
    """Softmax over the keys and a sink a head, whose column is left out of the result."""
    b, h, n, m = scores.shape
    wider = namespace(scores).cat([scores, sinks[None, :, None, None].expand(b, h, n, 1)], -1)
    wider = wider - wider.max(-1, keepdim=True)[0]
    return wider.softmax(-1).narrow(-1, 0, m)


def naive_by_hand(q: Any, k: Any, v: Any, mask: Mask = NO_MASK, dropout: float = 0.0) -> Any:
    """`naive` with softmax written out: subtract the row maximum, exponentiate, divide by the row sum."""
    xp = namespace(q)
    k, v = repeated(k, q), repeated(v, q)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    blocked = mask.blocked(xp, q, q.shape[-2], k.shape[-2])
    if blocked is not None:
        scores = scores.masked_fill(blocked, float("-inf"))
    probs = softmax_by_hand(scores)
    if dropout:
        probs = xp.dropout(probs, dropout, True)
    return probs @ v


def softmax_by_hand(x: Any) -> Any:
    """Softmax over the last dimension as textbooks write it: three new tensors of the scores' size."""
    shifted = x - x.max(-1, keepdim=True)[0]
    powers = shifted.exp()
    return powers / powers.sum(-1, keepdim=True)


def repeated(x: Any, q: Any) -> Any:
    """Key or value heads repeated to the query's number of heads: a copy, unless the numbers agree already."""
    if same(x.shape[1], q.shape[1]):
        return x
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)

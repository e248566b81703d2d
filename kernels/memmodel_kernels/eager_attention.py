"""Attention by plain operators, as Hugging Face's classes run it where the library's own cannot: scores in memory.

Gemma 2 caps its scores, gpt-oss adds a learned logit (a sink) to each row of them (modeling_gemma2.py and
modeling_gpt_oss.py of transformers 5.24, eager_attention_forward).
"""

from typing import Any

from memmodel_kernels.library_attention import repeated
from memmodel_kernels.namespace import functional, namespace


def eager_attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    dropout: float = 0.0,
    softcap: float = 0.0,
    sinks: Any = None,
    in_fp32: bool = True,
    bias: Any = None,
) -> tuple[Any, Any]:
    """Attention of q (b, h, n, d) on k, v (b, g, m, d or e), and its weights (b, h, n, m).

    `in_fp32`: whether the softmax is, as BERT's is not.
    `mask`: added to the scores, (b, 1, n, m); `bias` before it, (1, h, n, m). `softcap` c makes scores
    c tanh(scores / c). `sinks` (h,): a logit that takes part in each row's softmax, in the dtype of the scores.
    """
    xp, dtype = namespace(q), q.dtype
    k, v = repeated(k, q), repeated(v, q)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if softcap:
        scores = scores / softcap
        scores = scores.tanh()
        scores = scores * softcap
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        weights = _beside_sinks(scores, sinks)
    else:
        weights = scores.softmax(-1, dtype=xp.float32).to(dtype) if in_fp32 else scores.softmax(-1)
    if dropout:
        weights = functional(q).dropout(weights, dropout, True)
    return weights @ v, weights


def _beside_sinks(scores: Any, sinks: Any) -> Any:
    """Softmax of each row and its head's sink; less the sink's column, a view."""
    columns = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], -1)
    both = namespace(scores).cat([scores, columns], -1)
    # Against overflow in half precision, says the class.
    both = both - both.max(-1, keepdim=True)[0]
    return both.softmax(-1)[..., :-1]

"""`flash_attention`: the Triton kernels on torch tensors, their events on recording tensors, by the same call."""

from typing import Any

from memmodel.attention.masks import Mask
from memmodel.base.errors import UsageError
from memmodel_kernels.flash import check_options, flash
from memmodel_kernels.namespace import namespace


def flash_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    bias: Any = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    deterministic: bool = True,
    precision: str | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention of q (b, h, n, d) on k, v (b, g, m, d), differentiable; h must be a multiple of g.

    Any strides are read in place: (b, n, h, d) tensors are passed as `x.transpose(1, 2)`. Under `torch.autocast` q, k
    and v are cast to its dtype, as those of scaled_dot_product_attention are.

    Args:
        q: (b, h, n, d) queries.
        k: (b, g, m, d) keys.
        v: (b, g, m, d) values.
        bias: numbers that are added to the scores, as relative positions are: (n, m) and what broadcasts to
            (b, h, n, m), by strides of 0 where many heads or rows share them; -inf leaves a pair out. It has no
            gradient: one that needs it is refused.
        causal: query i of n sees the keys up to i + m - n (aligned at the bottom right; torch's `is_causal` is
            aligned at the top left).
        window: each query sees this many keys, its own position and those before it (and as many after it, unless
            causal).
        scale: of the scores; 1 / sqrt(d) unless given.
        softcap: c in c tanh(scores / c), of scaled scores, before the bias is added.
        dropout: probability that a weight is dropped, as dropout_p of scaled_dot_product_attention: pass 0 where not
            training. What is kept follows torch's random generator on the device of q.
        deterministic: gradients repeat bit for bit. False allows a backward with five matrix products instead of
            seven, which adds up dQ in no fixed order, in an fp32 buffer.
        precision: how fp32 is multiplied: "ieee", "tf32" or "tf32x3"; as torch.matmul would now unless given.
        return_lse: also return the log-sum-exp of the scaled scores, (b, h, n) fp32, natural log, differentiable.

    A query that sees no key has output 0, LSE -inf and gradients 0. Returns the output, laid out like q, or
    (output, LSE). Raises UsageError for inputs that are not supported, before anything is launched, and for
    forward-mode and second derivatives, which the kernels do not have.

    On recording tensors the call allocates and computes what the kernels do on an A100; `scale` and `precision` change
    neither.
    """
    if namespace(q).__name__ == "torch":
        from memmodel_kernels.triton_flash import op

        o, lse = op.attention(q, k, v, causal, window, scale, precision, deterministic, softcap, dropout, bias)
        return (o, lse) if return_lse else o
    check_options(causal, window, scale, softcap, deterministic, dropout)
    if window is not None and not causal:
        raise UsageError(f"window {window} without causal: recording tensors take a window that ends at the query")
    return flash(q, k, v, Mask(causal, window), None, deterministic, return_lse, softcap, dropout=dropout, bias=bias)


def flash_attention_varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    deterministic: bool = True,
    precision: str | None = None,
    return_lse: bool = False,
) -> Any:
    """`flash_attention` of sequences of unlike lengths, packed behind one another: nothing is padded.

    Args:
        q: (queries, h, d) of all sequences.
        k: (keys, g, d) of all sequences.
        v: (keys, g, d) of all sequences.
        cu_seqlens_q: (sequences + 1,) int32: where each sequence's queries begin, and the end of the last.
        cu_seqlens_k: the same of its keys; each sequence may have more or fewer of them than queries.
        max_seqlen_q: queries of the longest sequence, at least; one that is longer is cut.
        max_seqlen_k: keys of the longest sequence, at least.
        causal: as in `flash_attention`, within each sequence, and so are the options that follow.
        window: see there.
        scale: see there.
        softcap: see there.
        dropout: see there.
        deterministic: see there.
        precision: see there.
        return_lse: also return the log-sum-exp (h, queries).

    Rows outside every sequence are left as they are: undefined. Returns (queries, h, d), laid out like q, or that and
    the LSE. Raises UsageError as `flash_attention` does, and where offsets are no int32 tensors on the device of q.
    """
    if not q.ndim == k.ndim == v.ndim == 3:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        raise UsageError(f"q, k and v of packed sequences need 3 dimensions (tokens, heads, head dim): given {shapes}")
    from memmodel_kernels.triton_flash import op

    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    options = causal, window, scale, precision, deterministic, softcap, dropout
    o, lse = op.attention(q, k, v, *options, None, [max_seqlen_q, max_seqlen_k], cu_seqlens_q, cu_seqlens_k)
    o, lse = o.squeeze(0).transpose(0, 1), lse.squeeze(0)
    return (o, lse) if return_lse else o

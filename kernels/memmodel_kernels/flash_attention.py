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
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
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
        causal: query i of n sees the keys up to i + m - n (aligned at the bottom right; torch's `is_causal` is
            aligned at the top left).
        window: each query sees this many keys, its own position and those before it (and as many after it, unless
            causal).
        scale: of the scores; 1 / sqrt(d) unless given.
        softcap: c in c tanh(scores / c), of scaled scores.
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
        from memmodel_kernels.triton_flash.op import attention

        o, lse = attention(q, k, v, causal, window, scale, precision, deterministic, softcap)
        return (o, lse) if return_lse else o
    check_options(causal, window, scale, softcap, deterministic)
    if window is not None and not causal:
        raise UsageError(f"window {window} without causal: recording tensors take a window that ends at the query")
    return flash(q, k, v, Mask(causal, window), None, deterministic, return_lse, softcap)

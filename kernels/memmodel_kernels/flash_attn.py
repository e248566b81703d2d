"""The flash-attn packages: version 2 (`flash_attn`), and version 3 for Hopper (`flash_attn_interface`)."""

from typing import Any

from memmodel.attention.masks import NO_MASK, Mask
from memmodel_kernels.namespace import namespace


def flash_attn(
    q: Any,
    k: Any,
    v: Any,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    deterministic: bool = False,
    slopes: Any = None,
    softcap: float | None = None,
) -> Any:
    """`flash_attn_func` of version 2. Shapes as for `naive`; the package's own are transposed views, (b, n, h, d).

    `slopes` (h,) are ALiBi's, in fp32.
    """
    if namespace(q).__name__ == "torch":
        from flash_attn import flash_attn_func
    else:
        from memmodel.recording import flash_attn_func
    options = {"softcap": softcap or 0.0, "alibi_slopes": slopes, "deterministic": deterministic}
    return _called(flash_attn_func, q, k, v, mask, dropout_p=dropout, **options)


def flash_attn_varlen(
    q: Any,
    k: Any,
    v: Any,
    offsets: Any,
    queries: Any,
    keys: Any,
    mask: Mask = NO_MASK,
    dropout: float = 0.0,
    lengths: tuple[int, ...] = (),
) -> Any:
    """`flash_attn_varlen_func` of version 2, of packed sequences: q (tokens, h, d), k and v (tokens, g, d).

    `offsets` (b + 1,) in int32 are where sequences begin, of queries and of keys alike where they are as many.
    `queries` and `keys` are the length of each, or the longest where `lengths` tells them, of recording tensors.
    """
    options: dict[str, Any] = {"dropout_p": dropout, "causal": mask.causal, "window_size": _window_size(mask)}
    if namespace(q).__name__ != "torch":
        from memmodel.recording import flash_attn_varlen_func

        return flash_attn_varlen_func(q, k, v, offsets, queries, keys, **options, lengths=lengths)
    from flash_attn import flash_attn_varlen_func as library

    of_keys = offsets if queries == keys else (offsets // queries * keys).to(offsets.dtype)
    return library(q, k, v, offsets, of_keys, queries, keys, **options)


def flash_attn_3(q: Any, k: Any, v: Any, mask: Mask = NO_MASK, softcap: float | None = None) -> Any:
    """`flash_attn_func` of version 3. Shapes as for `naive`, values of a head dim of their own where it takes them."""
    if namespace(q).__name__ == "torch":
        from flash_attn_interface import flash_attn_func as flash_attn_3_func
    else:
        from memmodel.recording import flash_attn_3_func
    return _called(flash_attn_3_func, q, k, v, mask, softcap=softcap or 0.0)


def _called(function: Any, q: Any, k: Any, v: Any, mask: Mask, **options: Any) -> Any:
    tensors = (x.transpose(1, 2) for x in (q, k, v))
    output = function(*tensors, causal=mask.causal, window_size=_window_size(mask), **options)
    return output.transpose(1, 2)


def _window_size(mask: Mask) -> tuple[int, int]:
    """How many keys a query sees before and after its own, which the packages do not count; -1 for all."""
    return (-1, -1) if mask.window is None else (mask.window - 1, 0)

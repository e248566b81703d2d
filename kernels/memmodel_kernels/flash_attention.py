"""`flash_attention`: the Triton kernels on torch tensors, their events on recording tensors, by the same call."""

from typing import Any

from memmodel.errors import UsageError
from memmodel.masks import Mask
from memmodel_kernels.flash import flash, flash_tiles
from memmodel_kernels.namespace import namespace


def flash_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    deterministic: bool = True,
    precision: str | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention of q (b, h, n, d) on k, v (b, g, m, d); see `memmodel_kernels.triton_flash.flash_attention`.

    On recording tensors the call allocates and computes what the kernels do on an A100; `scale` and `precision` change
    neither. Returns the output (b, h, n, d), or (output, LSE (b, h, n) in fp32).
    """
    if namespace(q).__name__ == "torch":
        from memmodel_kernels.triton_flash import flash_attention as launch

        return launch(
            q,
            k,
            v,
            causal=causal,
            window=window,
            scale=scale,
            deterministic=deterministic,
            precision=precision,
            return_lse=return_lse,  # type: ignore[call-overload]
        )
    if window is not None and not causal:
        raise UsageError(f"window {window} without causal: recording tensors take a window that ends at the query")
    tiles = flash_tiles(80, q.dtype, q.shape[-1])
    return flash(q, k, v, Mask(causal, window), tiles, deterministic, return_lse)

"""FlashAttention-2 in Triton: forward and backward kernels, their launch, and offline compilation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memmodel_kernels.triton_flash.flash import flash_attention

__all__ = ["flash_attention"]


def __getattr__(name: str) -> Any:
    # Loaded on use: compiling offline needs the kernels, but neither torch nor the operators.
    if name != "flash_attention":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from memmodel_kernels.triton_flash.flash import flash_attention

    return flash_attention

"""The attention algorithms and the Triton kernels.

Importing this package imports neither torch nor triton: `flash_attention` is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memmodel_kernels.triton_flash import flash_attention

__all__ = ["flash_attention"]


def __getattr__(name: str) -> Any:
    if name != "flash_attention":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from memmodel_kernels.triton_flash import flash_attention

    return flash_attention

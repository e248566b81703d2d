"""PyTorch's flex_attention: its operators, and what its function does before it calls one."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward
from torch.nn.attention import flex_attention as library

FLEX_ATTENTION, FLEX_ATTENTION_BACKWARD = flex_attention, flex_attention_backward
# The check that the device can train becomes one of PyTorch's that passes, which torch.compile can trace.
CPU_IS_NO_OBSTACLE = (library, "_validate_device", library._validate_no_nested_tensors)


def called_plainly() -> Iterator[tuple[Any, str, Any]]:
    """Replacements with which it calls its operator and compiles nothing."""
    yield CPU_IS_NO_OBSTACLE
    yield library, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True
    yield library, "setup_compilation_env", nullcontext

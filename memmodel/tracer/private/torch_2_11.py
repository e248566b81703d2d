"""PyTorch 2.11 and before: a compiled backward is not handed its incoming gradients in a list that it may empty."""

from collections.abc import Iterator
from typing import Any

import torch

FIRST_TO_FREE = (2, 12)  # the first with github.com/pytorch/pytorch/pull/177837


def held_tangents() -> Iterator[tuple[Any, str, Any]]:
    """(class, name, method) with which incoming gradients live until a compiled backward ends."""
    called = torch.autograd.function.BackwardCFunction
    boxed = getattr(called, "apply_boxed", None)

    def applied(self: Any, tangents: Any) -> Any:
        held = list(tangents)
        result = boxed(self, tangents)  # type: ignore[misc]
        del held
        return result

    if boxed is not None:
        yield called, "apply_boxed", applied

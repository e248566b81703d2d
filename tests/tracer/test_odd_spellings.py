"""Attention in odd spellings: traced events are those of PyTorch's CPU allocator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from odd_spellings import ODD
from torch.utils._pytree import tree_leaves
from traced_events import traced_events

from memmodel.base.device import CPU
from memmodel_validate.events import in_order
from spellings import B, D, H, N
from torch_events import real_events


def step(spelling: Callable[..., Any], phase: str) -> Callable[[Any], None]:
    """Two steps, from upstream gradients that are made at first."""

    def body(_: Any) -> None:
        q, k, v = (torch.empty(B, H, N, D, requires_grad=phase == "train") for _ in range(3))
        upstream: list[Any] = []
        for _ in range(2):
            with torch.set_grad_enabled(phase == "train"):
                out = tree_leaves(spelling(q, k, v))
            if phase == "train":
                roots = [x for x in out if x.requires_grad]
                upstream = upstream or [torch.empty(x.shape) for x in roots]
                torch.autograd.backward(roots, upstream)
                del roots
            del out
            q.grad = k.grad = v.grad = None

    return body


@pytest.mark.parametrize("phase", ["train", "inference"])
@pytest.mark.parametrize("spelling", ODD, ids=lambda f: f.__name__)
def test_spellings_are_as_the_cpu_allocator_saw_them(spelling: Callable[..., Any], phase: str) -> None:
    body = step(spelling, phase)
    assert traced_events(body, CPU) == in_order(real_events(body))

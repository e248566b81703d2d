"""Activations on the host: the same events as PyTorch's, where the host's own copies are left out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from training import small_case, two_steps

from memmodel_kernels import offloading
from torch_events import in_order, real_events, recorded_events


def test_layers_that_are_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    to_host = offloading.to_host

    def without_copy(x: Any) -> Callable[[], Any]:
        if not isinstance(x, torch.Tensor):
            return to_host(x)
        size, stride, dtype = x.shape, x.stride(), x.dtype
        return lambda: torch.empty_strided(size, stride, dtype=dtype)

    monkeypatch.setattr(offloading, "to_host", without_copy)
    body = two_steps(small_case(checkpoint="block", offload=True, in_backward=True, loss="chunked-logits", chunks=3))
    assert in_order(recorded_events(body)) == in_order(real_events(body))

"""Single functions of PyTorch, forward and backward: traced events are those of its CPU allocator."""

from typing import Any

import pytest
import torch
from operator_calls import CALLS, B, D, N
from traced_events import traced_events

from memmodel.base.device import CPU
from memmodel_validate.events import in_order
from torch_events import real_events


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls_are_as_the_cpu_allocator_saw_them(call: Any) -> None:
    def body(_: Any) -> None:
        a, b = (torch.empty(B, N, D, requires_grad=True) for _ in range(2))
        with torch.no_grad():
            a.fill_(0.5)
            b.fill_(0.25)
        for _ in range(2):
            out = call(a, b)
            out.backward(torch.empty(out.shape))
            del out
        with torch.no_grad():
            call(a, b)

    assert traced_events(body, CPU) == in_order(real_events(body))

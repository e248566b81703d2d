"""flash_attention on recording tensors allocates what the kernels' launches allocate, tensor by tensor, in order."""

import pytest
import torch

from attention_reference import Case, upstream
from memmodel import recording
from memmodel.events.program import Alloc
from memmodel_kernels import flash_attention
from memmodel_kernels.triton_flash import launch
from memmodel_kernels.triton_flash.problem import checked
from new_storages import Allocations

Made = tuple[tuple[int, ...], str]


def launched(case: Case, deterministic: bool) -> list[Made]:
    q, k, v = (x.detach() for x in case.inputs())
    dout, _ = upstream(case)
    bias = case.added()
    problem = checked(q, k, v, causal=False, window=None, deterministic=deterministic, biased=bias is not None)
    beside = launch.Beside(bias=bias)
    with Allocations() as made:
        o, lse = launch.forward(q, k, v, problem, beside)
        launch.backward(dout, None, q, k, v, o, lse, problem, beside)
    return [(shape, str(dtype).removeprefix("torch.")) for _, shape, dtype in made.made]


def recorded(case: Case, deterministic: bool) -> list[Made]:
    kind = {torch.float16: recording.float16, torch.float32: recording.float32}[case.dtype]
    with recording.Tape() as tape:
        q = recording.empty(case.b, case.h, case.n, case.d, dtype=kind, requires_grad=True)
        k, v = (recording.empty(case.b, case.g, case.m, case.d, dtype=kind, requires_grad=True) for _ in range(2))
        dout = recording.empty(case.b, case.h, case.n, case.d, dtype=kind)
        bias = recording.empty(*case.bias, dtype=kind) if case.bias else None
        given = sum(isinstance(event, Alloc) for event in tape.events)
        flash_attention(q, k, v, bias=bias, deterministic=deterministic).backward(dout)
    made = [event for event in tape.events if isinstance(event, Alloc)]
    return [(event.shape, event.dtype.name) for event in made[given:]]


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_same_call_makes_the_same_tensors(dtype: torch.dtype, deterministic: bool) -> None:
    case = Case(b=2, h=4, g=2, n=30, m=20, d=64, dtype=dtype, bias=(1, 4, 30, 20) if deterministic else None)
    assert recorded(case, deterministic) == launched(case, deterministic)

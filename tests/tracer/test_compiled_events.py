"""Plans for the CPU are held to really compiled code: PyTorch's allocator saw the same events, to the byte.

All 48 spellings agree, in training and inference; that takes minutes of C++, so here are those with unlike reasons to
differ.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from block import B, C, N, RMSNorm
from compiled_events import (
    events_since,
    own_cache,
    planned_events,
    planned_run,
    real_compiled_events,
    real_steps,
)
from torch import nn

from memmodel.allocator.cublas import parse_torch_version
from memmodel.events.program import Mark
from spellings import SPELLINGS
from spellings import B as BATCH
from spellings import D as HEAD_DIM
from spellings import H as HEADS
from spellings import N as SEQ

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.filterwarnings("ignore"),  # the compiler's, which are many
    pytest.mark.skipif(parse_torch_version(torch.__version__) < (2, 13), reason="the compiler of an older PyTorch"),
]
BY_NAME = {spelling.__name__: spelling for spelling in SPELLINGS}
SHAPES = dict.fromkeys("qkv", (BATCH, HEADS, SEQ, HEAD_DIM))


@pytest.fixture(autouse=True, scope="module")
def cache() -> Iterator[None]:
    with own_cache():
        yield


def on_torch(name: str) -> Any:
    spelling = BY_NAME[name]

    def attention(q: Any, k: Any, v: Any) -> Any:
        return spelling(torch, q, k, v)

    return attention


@pytest.mark.parametrize(
    ("name", "step", "dtype"),
    [
        ("library_softmax", "train", torch.float32),  # replaced by fused attention
        ("softmax_by_hand", "train", torch.float32),
        ("masked_fill", "inference", torch.float32),
        ("dropout", "train", torch.float32),
        ("checkpointed", "train", torch.float32),
        ("softmax_in_float", "train", torch.bfloat16),
    ],
)
def test_compiled_spellings_are_as_the_cpu_allocator_saw_them(name: str, step: str, dtype: torch.dtype) -> None:
    planned = planned_events(on_torch(name), SHAPES, step, dtype)
    assert planned == real_compiled_events(on_torch(name), SHAPES, step, dtype)
    assert len(planned) > 6


def test_a_compiled_training_step_is_as_the_cpu_allocator_saw_it() -> None:
    """Dynamo breaks it into graphs, with eager code between them; it runs its own backward and its optimizer."""

    def made() -> Any:
        model = nn.Sequential(RMSNorm(C), nn.Linear(C, C, bias=False))
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)

        def step(x: Any) -> None:
            y = model(x)
            torch._dynamo.graph_break()
            y = nn.functional.dropout(y, 0.1)
            optimizer.zero_grad()
            model(y).pow(2).mean().backward()
            optimizer.step()

        return step

    found = planned_run(made(), {"x": (B, N, C)}, "own", torch.float32, iterations=4)
    events = found.traced.program.events
    last = [i for i, e in enumerate(events) if isinstance(e, Mark) and e.phase == "forward"][-2]
    step, x = torch.compile(made(), dynamic=False), torch.randn(B, N, C)
    planned = events_since(found.traced.program, last)
    assert planned == real_steps(lambda: step(x))
    assert found.graphs.breaks

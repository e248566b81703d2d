"""Models as people write them, trained two steps: traced events are those of PyTorch's CPU allocator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from traced_events import traced_events
from trained_models import MODELS, B, C, N, Step, checkpointed

import memmodel
from memmodel.base.device import CPU
from memmodel.events.program import Mark
from memmodel_validate.events import in_order
from torch_events import real_events, without


def trained(made: Callable[[], Step]) -> Callable[[Any], None]:
    """Two steps of plain gradient descent, the model made inside."""

    def body(_: Any) -> None:
        step, x = made(), torch.zeros(B, N, C, requires_grad=True)
        for _ in range(2):
            out = step(x)
            (out if out.dim() == 0 else out.sum()).backward()  # type: ignore[no-untyped-call]
            del out

    return body


@pytest.mark.parametrize("made", MODELS.values(), ids=MODELS)
def test_models_are_as_the_cpu_allocator_saw_them(made: Callable[[], Step]) -> None:
    body = trained(made)
    assert without(traced_events(body, CPU), 8) == in_order(real_events(body))


def test_a_reentrant_checkpoint_is_one_backward() -> None:
    """Its inner runs of the engine begin no phase of their own: work and saved bytes are of the whole step."""
    found, plain = (
        memmodel.trace(checkpointed(reentrant)(), {"x": f"{B},{N},{C}"}, step="train", formulas=False)
        for reentrant in (True, False)
    )
    assert [e.phase for e in found.program.events if isinstance(e, Mark)].count("backward") == 1
    assert found.work.matmul == plain.work.matmul

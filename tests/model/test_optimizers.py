"""Optimizers written as operations make the allocator events of torch.optim's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from training import beyond_numbers

from memmodel import recording
from memmodel.events.liveness import phase_peaks
from memmodel_kernels.optimizers import OPTIMIZERS
from torch_events import real_events, recorded_events

SHAPES = [(40, 24), (24,), (24, 56)]
REAL: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, fused=True),
    "adamw-loop": lambda p: torch.optim.AdamW(p, foreach=False),
    "sgd": lambda p: torch.optim.SGD(p, foreach=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, weight_decay=0.1),
    "muon": lambda p: torch.optim.Muon(p),
}


def given(t: Any, name: str) -> list[Any]:
    shapes = [shape for shape in SHAPES if len(shape) > 1] if name == "muon" else SHAPES
    parameters = [t.ones(*shape) for shape in shapes]
    for parameter in parameters:
        parameter.grad = t.ones(*parameter.shape)
    return parameters


@pytest.mark.parametrize("name", REAL)
def test_two_steps(name: str) -> None:
    def real(t: Any) -> None:
        optimizer = REAL[name](given(t, name))
        for _ in range(2):
            optimizer.step()

    def written(t: Any) -> None:
        optimizer, parameters = OPTIMIZERS[name], given(t, name)
        with t.no_grad():
            states = optimizer.fresh(parameters)
            for _ in range(2):
                optimizer.update(parameters, [parameter.grad for parameter in parameters], *states)

    assert beyond_numbers(recorded_events(written)) == beyond_numbers(real_events(real))


def test_states_in_8_bits() -> None:
    """A byte an element and four a block of 256; tensors of fewer than 4,096 elements in fp32 (bitsandbytes)."""
    with recording.Tape():
        large, small = recording.zeros(64, 65), recording.zeros(63, 65)
        states = OPTIMIZERS["adamw-8bit"].fresh([large, small])
        of_large, of_small = (sum(kind[i].nbytes for kind in states if kind[i] is not None) for i in range(2))
    assert of_large == 2 * (64 * 65 + 4 * 17)  # 16.25 blocks
    assert of_small == 2 * 4 * 63 * 65


def test_states_in_8_bits_of_torchao() -> None:
    """A byte an element, four a block of 256 and a table of 256; what does not fill blocks in its own type.

    While a parameter is updated, three copies in fp32 and a byte an element are there too.
    """
    optimizer, count = OPTIMIZERS["adamw-8bit-torchao"], 64 * 68  # 17 blocks
    with recording.Tape() as tape:
        large, ragged = (recording.zeros(64, n, dtype=recording.bfloat16) for n in (68, 65))
        states = optimizer.fresh([large, ragged])
        of_large, of_ragged = (sum(kind[i].nbytes for kind in states if kind[i] is not None) for i in range(2))
        tape.mark("forward")
        optimizer.update([large], [large], *([kind[0]] for kind in states))
        tape.mark("after")
    assert of_large == 2 * (count + 4 * 17 + 4 * 256)
    assert of_ragged == 2 * 2 * 64 * 65
    held = 2 * count + 2 * 64 * 65 + of_large + of_ragged
    assert phase_peaks(tape.program)["forward"] == held + (3 * 4 + 1) * count

"""What a sum of bools moves: ATen sums an int64 copy (ReduceOpsUtils.h, make_reduction), by hand and as traced."""

from pathlib import Path

import pytest

from memmodel import recording
from memmodel.events.program import Launch, Program
from memmodel.recording import Tape

ROWS, COLUMNS = 8, 64
ELEMENTS = ROWS * COLUMNS


def moved(program: Program) -> list[tuple[int, int]]:
    """Bytes read and written of each kernel."""
    return [(int(e.work.read), int(e.work.written)) for e in program.events if isinstance(e, Launch)]


EXPECTED = [(ELEMENTS, 8 * ELEMENTS), (8 * ELEMENTS, 8 * ROWS)]  # a bool in, an int64 out; int64 in, one a row out


def test_recorded() -> None:
    with Tape(sites=False) as tape:
        mask = recording.ones(ROWS, COLUMNS, dtype=recording.bool, device="cuda")
        mask.sum(-1)
    assert moved(tape.program)[1:] == EXPECTED


def test_traced(tmp_path: Path) -> None:
    import torch

    import memmodel

    def count(x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1)

    found = memmodel.trace(count, {"x": "8,64:bool"}, formulas=False)
    assert moved(found.program)[-2:] == EXPECTED


def test_a_float_is_summed_as_it_is() -> None:
    with Tape(sites=False) as tape:
        recording.ones(ROWS, COLUMNS, device="cuda").sum(-1)
    assert moved(tape.program)[1:] == [(4 * ELEMENTS, 4 * ROWS)]


@pytest.mark.parametrize(("factor", "kind"), [("a number", "elementwise"), ("a scalar on the GPU", "broadcast")])
def test_a_scalar_on_the_gpu_is_spread_over_the_others(factor: str, kind: str) -> None:
    """TensorIterator takes a number into the kernel; a 0-d tensor on the GPU is an operand that is not contiguous."""
    with Tape(sites=False) as tape:
        x = recording.ones(ROWS, COLUMNS, device="cuda")
        x / (2.0 if factor == "a number" else recording.full((), 2.0, device="cuda"))
    last = [e for e in tape.program.events if isinstance(e, Launch)][-1]
    assert last.kind == kind

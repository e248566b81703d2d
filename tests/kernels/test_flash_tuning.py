"""Choosing among the table's rows: what is remembered, for which calls, and on which machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_flash_correctness import flash

from attention_reference import DEVICE, Case
from memmodel.attention.tiles import FORWARD, Tile
from memmodel.base.errors import UsageError
from memmodel_kernels.triton_flash import choice, launch, tune
from memmodel_kernels.triton_flash.problem import Problem, checked

CASE = Case(n=40, m=40, d=64, causal=True)
OTHER = Tile(32, 32, 4, 2)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    choice.chosen.clear()


def problem_of(case: Case) -> Problem:
    return checked(*case.inputs(), case.causal, case.window, None, None)


def launched(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(rows, cols) that the forward of a call was launched with."""
    seen: list[tuple[int, int]] = []

    class Spy:
        def __getitem__(self, grid: object) -> "Spy":
            return self

        def __call__(self, *args: Any, **kwargs: object) -> None:
            seen.append((args[-1].rows, args[-1].cols))

    monkeypatch.setattr(launch, "forward_kernel", Spy())
    launch.forward(*case.inputs(), problem_of(case))
    return seen[0]


def test_a_choice_holds_for_calls_of_its_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    choice.choose(problem_of(CASE), (FORWARD,), (OTHER,))
    assert launched(CASE, monkeypatch) == (32, 32)
    assert launched(Case(n=45, m=40, d=64, causal=True), monkeypatch) == (32, 32)  # the same power of two
    for different in (Case(n=40, m=40, d=64), Case(n=90, m=90, d=64, causal=True), Case(n=40, m=40, d=32, causal=True)):
        assert launched(different, monkeypatch) != (32, 32)


def test_forcing_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    before = launched(CASE, monkeypatch)
    with choice.forced((FORWARD,), (OTHER,)):
        assert launched(CASE, monkeypatch) == (32, 32)
    assert launched(CASE, monkeypatch) == before


def test_choices_survive_a_file_on_the_same_machine_only(tmp_path: Path) -> None:
    file = tmp_path / "tiles.json"
    choice.choose(problem_of(CASE), (FORWARD,), (OTHER,))
    tune.save(file)
    choice.chosen.clear()
    assert tune.load(file)
    assert choice.row(problem_of(CASE), FORWARD) == (OTHER,)
    saved = json.loads(file.read_text())
    saved["machine"]["gpu"] = "another"
    file.write_text(json.dumps(saved))
    choice.chosen.clear()
    assert not tune.load(file)
    assert not choice.chosen


@pytest.mark.skipif(DEVICE == "cuda", reason="about machines without a GPU")
def test_tuning_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="tuning times kernels on a GPU: the tensors are on cpu"):
        tune.tune(*CASE.inputs())


@pytest.mark.skipif(DEVICE == "cpu", reason="tuning times kernels on a GPU")
@pytest.mark.parametrize("deterministic", [True, False])
def test_tuning_picks_rows_of_the_table(deterministic: bool) -> None:
    case = Case(b=4, h=8, g=8, n=512, m=512, d=64, causal=True, dtype=torch.bfloat16)
    q, k, v = (x.detach() for x in case.inputs())
    problem = checked(q, k, v, True, None, None, None)
    for passes, row in tune.tune(q, k, v, causal=True, deterministic=deterministic).items():
        assert row in choice.rows(problem, passes)
        assert choice.row(problem, *passes) == row
    assert flash(case, deterministic).o.isfinite().all()

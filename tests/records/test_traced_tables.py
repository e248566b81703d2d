"""The recorded scripts, traced as PyTorch code: their tables, number by number, and the recording tensors' events."""

import re
from pathlib import Path

import pytest
from traced_harnesses import EAGER, traced

from memmodel.program import Program
from memmodel_evidence.comparison import Comparison, comparison, recorded
from memmodel_evidence.records import Row, rows
from memmodel_validate.events import in_order, program_events
from torch_events import without_empty

PAGE = Path(__file__).parents[2] / "docs" / "trace.md"


def runs_of(table: str) -> list[Row]:
    return [run for run in rows() if run.table == table and run.printed]


def compared(table: str) -> list[Comparison]:
    return [c for run in runs_of(table) for c in comparison(run, traced)]


def births_and_deaths(program: Program) -> list[tuple[str, int, int]]:
    return in_order(without_empty(e for e in program_events(program) if e.kind in ("alloc", "free")))


@pytest.mark.parametrize("table", EAGER)
def test_every_number_of_the_table_is_traced_as_printed(table: str) -> None:
    found = compared(table)
    wrong = [str(c) for c in found if not c.exact]
    assert found
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("table", EAGER)
def test_traced_events_are_the_recorded_ones(table: str) -> None:
    run = Row(table, batch=2, seq=48, d=24, printed={}, out_of_memory=False)
    assert births_and_deaths(traced(run)) == births_and_deaths(recorded(run))


def test_the_page_counts_these_tables_and_numbers() -> None:
    numbers = sum(len(run.printed) for table in EAGER for run in runs_of(table))
    (said,) = re.findall(r"all (\d+) numbers of the (\d+)\s+recorded tables", PAGE.read_text(encoding="utf-8"))
    assert said == (str(numbers), str(len(EAGER)))

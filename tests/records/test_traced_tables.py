"""The recorded scripts, traced as PyTorch code: their tables' numbers, and the recording tensors' events.

Of a table the smallest and the largest row, or all with MEMMODEL_EXHAUSTIVE=1: that recording tensors, whose events a
trace has, give every number of every row is `test_recorded_tables.py`'s.
"""

import os
import re
from pathlib import Path

import pytest
from traced_harnesses import EAGER, traced

from memmodel.events.program import Program
from memmodel_evidence.harnesses.script import Row
from memmodel_evidence.memory import Printed, numbers, recorded, replayed_row, row_of
from memmodel_evidence.records import printed, rows, tables
from memmodel_validate.events import in_order, program_events
from memmodel_validate.ledger import Run
from torch_events import without_empty

PAGE = Path(__file__).parents[2] / "docs" / "trace.md"


def runs_of(table: str) -> list[Run]:
    return [run for run in rows() if run.source == table and printed(run)]


def compared(table: str) -> list[Printed]:
    source, runs = tables()[table], runs_of(table)
    if os.environ.get("MEMMODEL_EXHAUSTIVE") != "1":
        runs = [runs[0], *runs[1:][-1:]]
    return [n for run in runs for n in numbers(run, replayed_row(source, traced(table, row_of(run))))]


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
    row = Row(batch=2, seq=48, d=24, warm_up=2, measured=2)
    assert births_and_deaths(traced(table, row)) == births_and_deaths(recorded(table, row))


def test_the_page_counts_these_tables_and_numbers() -> None:
    numbers = sum(len(printed(run)) for table in EAGER for run in runs_of(table))
    (said,) = re.findall(r"all (\d+) numbers\s+of the (\d+)\s+recorded tables", PAGE.read_text(encoding="utf-8"))
    assert said == (str(numbers), str(len(EAGER)))

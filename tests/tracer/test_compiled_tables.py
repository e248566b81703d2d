"""Plans for GPUs are held to other people's runs there: every number of a table's smallest and largest row.

A plan follows from the attention and its sizes: the largest row of a length stands for those of other tables with the
same attention, and a script for its second table. With MEMMODEL_EXHAUSTIVE=1 each is compiled.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from compiled_tables import compared, compiled_program

from memmodel.allocator.cublas import parse_torch_version
from memmodel.events.program import Program
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.programs import program_of
from memmodel_evidence.records import printed, rows, tables
from memmodel_validate.ledger import Run

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(parse_torch_version(torch.__version__) < (2, 13), reason="the compiler of an older PyTorch"),
]


def unlike() -> Iterator[Any]:
    """The rows whose plans can differ, the smallest of each table first."""
    scripts, plans, every = set[Any](), set[Any](), os.environ.get("MEMMODEL_EXHAUSTIVE") == "1"
    for table in (name for name in HARNESSES if "compiled" in name):
        harness: Any = HARNESSES[table]
        attention = harness.keywords["attention"]
        smallest, *_, largest = (run for run in rows() if run.source == table and printed(run))
        longest = attention, largest.case["seq"]
        if every or (harness.func, attention) not in scripts:
            yield pytest.param(smallest, True, id=table)
        if every or longest not in plans:
            yield pytest.param(largest, False, id=f"{table}, largest")
        scripts.add((harness.func, attention))
        plans.add(longest)


@pytest.mark.parametrize(("run", "smallest"), list(unlike()))
def test_plans_print_the_recorded_numbers(run: Run, smallest: bool) -> None:
    planned, table = compiled_program(run), tables()[run.source]
    found = compared(run, planned)
    assert found
    assert [str(c) for c in found if not c.exact] == []
    if smallest and "attention" in table.protocol:  # the largest may have run eager, with the limit of graphs spent
        assert score_reads(run, planned, "triton") == score_reads(run, program_of(run, table), "fused")


def score_reads(run: Run, program: Program, fused: str) -> int:
    """How often kernels of a name read scores, each of them once: the harness repeats forward."""
    kernels = {(one.name, one.gradient): one.work.read for one in program.launches() if one.name.startswith(fused)}
    return round(sum(map(float, kernels.values())) / (run.case["batch"] * run.case["seq"] ** 2 * 4))

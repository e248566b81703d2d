"""Plans for GPUs are held to other people's runs there: every number of a table's smallest and largest row."""

from typing import NamedTuple

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


def ends(table: str) -> tuple[Run, Run]:
    of_table = [run for run in rows() if run.source == table and printed(run)]
    return of_table[0], of_table[-1]


@pytest.mark.parametrize("table", [name for name in HARNESSES if "compiled" in name])
def test_plans_print_the_recorded_numbers(table: str) -> None:
    smallest, largest = (Planned(run, compiled_program(run)) for run in ends(table))
    for planned in (smallest, largest):
        found = compared(*planned)
        assert found
        assert [str(c) for c in found if not c.exact] == []
    if "attention" in tables()[table].protocol:  # the largest may have run eager, with the limit of graphs spent
        modelled = program_of(smallest.run, tables()[table])
        assert score_reads(*smallest, "triton") == score_reads(smallest.run, modelled, "fused")


class Planned(NamedTuple):
    """A row, and its program by Inductor's plans."""

    run: Run
    program: Program


def score_reads(run: Run, program: Program, fused: str) -> int:
    """How often kernels of a name read scores, each of them once: the harness repeats forward."""
    kernels = {(one.name, one.gradient): one.work.read for one in program.launches() if one.name.startswith(fused)}
    return round(sum(map(float, kernels.values())) / (run.case["batch"] * run.case["seq"] ** 2 * 4))

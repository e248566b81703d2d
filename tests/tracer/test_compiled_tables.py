"""Plans for GPUs are held to other people's runs there: every number of a table's smallest and largest row."""

import pytest
import torch
from compiled_tables import compared

from memmodel.allocator.cublas import parse_torch_version
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.records import printed, rows
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
    for run in ends(table):
        found = compared(run)
        assert found
        assert [str(c) for c in found if not c.exact] == []

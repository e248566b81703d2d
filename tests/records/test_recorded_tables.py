from dataclasses import replace

import pytest

from memmodel.gpus import load_gpu
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.memory import Printed, numbers, readings, recorded, replayed_row, row_of
from memmodel_evidence.records import printed, rows, tables
from memmodel_validate.ledger import Run


def runs_of(table: str) -> list[Run]:
    return [run for run in rows() if run.source == table]


@pytest.mark.parametrize("table", tables())
def test_every_number_of_the_table_is_predicted_as_printed(table: str) -> None:
    found = [number for run in runs_of(table) for number in numbers(run)]
    wrong = [str(number) for number in found if not number.exact]
    assert len(found) == sum(len(printed(run)) for run in runs_of(table)) > 0
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("table", tables())
def test_one_iteration_is_the_steady_state_so_a_mean_is_each(table: str) -> None:
    run = next(run for run in runs_of(table) if printed(run))
    longer = replayed_row(tables()[table], recorded(table, row_of(run)._replace(warm_up=3, measured=3)))
    for number in numbers(run):
        assert set(readings(longer, number.column)) == {number.predicted}


@pytest.mark.parametrize("table", [name for name, table in tables().items() if table.gpu_id])
def test_memory_runs_out_exactly_where_the_table_says_so(table: str) -> None:
    gpu = load_gpu(tables()[table].gpu_id)
    _, context = gpu.context_bytes or (0, 1 << 30)  # not known: at most 1 GiB
    for run in runs_of(table):
        program = recorded(table, row_of(run))
        failed = replayed_row(tables()[table], program, gpu.capacity_bytes - context).out_of_memory
        assert (failed is not None) == run.out_of_memory, (str(run), failed)


def test_every_table_has_a_harness_and_rows() -> None:
    assert set(tables()) == set(HARNESSES) == {run.source for run in rows()}


def one_number(table: str) -> Printed:
    return next(number for run in runs_of(table) for number in numbers(run))


def last_place(number: Printed) -> int:
    """Bytes of one unit in the last printed place, but at least one byte."""
    decimals = len(number.text.partition(".")[2])
    return max(1, round(10.0**-decimals * number.unit_bytes))


def test_a_prediction_one_unit_off_in_the_last_place_is_not_exact() -> None:
    """In each unit and with each number of decimals that is printed."""
    one_of_each = {last_place(number): number for number in map(one_number, tables())}
    assert len(one_of_each) > 3
    for unit, number in one_of_each.items():
        assert number.exact
        assert not replace(number, predicted=number.predicted + unit).exact
        assert not replace(number, predicted=number.predicted - unit).exact


def test_exact_tables_see_a_single_block() -> None:
    number = one_number("sara-eager")
    assert not replace(number, predicted=number.predicted + 512).exact

from dataclasses import replace

import pytest

from memmodel.gpus import load_gpu
from memmodel_evidence.comparison import Comparison, accuracy, comparison, replayed_run, steady
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.records import Row, rows, tables


def runs_of(table: str) -> list[Row]:
    return [run for run in rows() if run.table == table]


@pytest.mark.parametrize("table", tables())
def test_every_number_of_the_table_is_predicted_as_printed(table: str) -> None:
    compared = [c for run in runs_of(table) for c in comparison(run)]
    wrong = [str(c) for c in compared if not c.exact]
    assert compared
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("table", tables())
def test_measured_iterations_are_alike_so_their_mean_is_each(table: str) -> None:
    run = next(run for run in runs_of(table) if run.printed)
    replayed = replayed_run(run)
    assert all(steady(replayed, column) for column in run.printed)


@pytest.mark.parametrize("table", [name for name, table in tables().items() if table.source.gpu_id])
def test_memory_runs_out_exactly_where_the_table_says_so(table: str) -> None:
    gpu = load_gpu(tables()[table].source.gpu_id)
    _, context = gpu.context_bytes or (0, 1 << 30)  # not known: at most 1 GiB
    for run in runs_of(table):
        failed = replayed_run(run, capacity=gpu.capacity_bytes - context).out_of_memory
        assert (failed is not None) == run.out_of_memory, (str(run), failed)


def test_every_table_has_a_harness_and_rows() -> None:
    assert set(tables()) == set(HARNESSES) == {run.table for run in rows()}


def test_accuracy_counts_the_numbers_of_all_rows() -> None:
    found = accuracy()
    assert sum(a.rows for a in found) == sum(len(run.printed) for run in rows())
    assert all(a.exact == a.rows for a in found)
    coarsest = 0.001 * (1 << 30)  # the last place that GiB are printed with
    assert max(abs(a.worst_residual) for a in found) <= coarsest / 2


def one_comparison(table: str) -> Comparison:
    return next(c for run in runs_of(table) for c in comparison(run))


def last_place(compared: Comparison) -> int:
    """Bytes of one unit in the last printed place, but at least one byte."""
    decimals = len(compared.printed.partition(".")[2])
    return max(1, round(10.0**-decimals * compared.table.unit_bytes))


@pytest.mark.parametrize("table", tables())
@pytest.mark.parametrize("sign", [1, -1])
def test_a_prediction_one_unit_off_in_the_last_place_fails(table: str, sign: int) -> None:
    compared = one_comparison(table)
    assert compared.exact
    wrong = replace(compared, predicted=compared.predicted + sign * last_place(compared))
    assert not wrong.exact
    assert compared.printed in str(wrong)
    assert str(wrong.predicted) in str(wrong)
    assert f"seq {compared.run.seq}" in str(wrong)


def test_exact_tables_see_a_single_block() -> None:
    compared = one_comparison("sara-eager")
    assert not replace(compared, predicted=compared.predicted + 512).exact

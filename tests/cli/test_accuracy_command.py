"""`memmodel accuracy`, as somebody types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel_evidence.records import everything, printed, rows
from memmodel_validate.accuracy_table import markdown
from memmodel_validate.comparison import Accuracy, Comparison, summaries
from memmodel_validate.ledger import Measurement, Run, Source, append

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("judged_once")]


def run(*args: str) -> str:
    return CliRunner().invoke(cli, ["accuracy", *args], catch_exceptions=False, standalone_mode=False).output


def test_it_fits_80_columns_and_says_what_was_not_judged() -> None:
    printed = run()
    assert max(map(len, printed.splitlines())) <= 80
    assert "not judged" in printed
    assert run("--by-table").count("yyin-eager") == 6  # memory; time long and transferred, short and told, by table


def test_json_counts_what_it_lists() -> None:
    found = json.loads(run("--gpu", "H20", "--json"))
    assert found["judged"]
    assert all("H20" in one["gpu"] for one in found["judged"])
    assert sum(group["count"] for group in found["groups"]) == len(found["judged"])
    assert sum(group["count"] for group in found["quantities"]) == len(found["judged"])


def test_filters_narrow() -> None:
    shown = run("--quantity", "memory", "--gpu", "b200")
    on_b200 = {name for name, source in everything().sources.items() if "B200" in source.gpu}
    numbers = sum(len(printed(row)) for row in rows() if row.source in on_b200)
    assert ["memory", f"{numbers}", f"{numbers}"] in [line.split() for line in shown.splitlines()]
    assert "naive" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "hh100"], "unknown GPU on record 'hh100': did you mean H100"),
        (["--quantity", "speed"], "unknown quantity on record 'speed': there are 24, for example CPU time"),
        (["--markdown", "--json"], "give one of them"),
        (["--ledger", "/missing/runs.jsonl"], "cannot read /missing/runs.jsonl .*: give a ledger"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*arguments)


def test_a_ledger_of_ones_own_is_judged_too(tmp_path: Path) -> None:
    """A naive forward on an H100 table's name: its time is one more number, as seen and by table."""
    path = tmp_path / "mine.jsonl"
    source = everything().sources["yyin-eager"]
    case = {"batch": 8, "heads": 1, "kv_heads": 1, "seq": 32768, "kv_seq": 32768, "head_dim": 64, "dtype": "fp32"}
    measured = {"forward_time": Measurement("ms", (216.0,))}  # four times the table's 16384 row
    append(path, [source, Run("yyin-eager", "naive-by-hand", {**case, "mask": "tensor"}, measured)])
    before, after = (json.loads(run("--quantity", "naive", *more, "--json")) for more in ([], ["--ledger", str(path)]))
    assert len(after["judged"]) == len(before["judged"]) + 2
    assert all(one["error"] < 0.1 for one in after["judged"] if one not in before["judged"])


def test_a_source_that_contradicts_the_shipped_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    append(path, [Source("yyin-eager", {"gpu": "another"})])
    with pytest.raises(UsageError, match=r"mine\.jsonl, line 1: the source 'yyin-eager' is described a second time"):
        run("--ledger", str(path))


def test_markdown_has_a_cell_for_every_column() -> None:
    lines = run("--markdown").splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_inexact_memory_would_show() -> None:
    wrong = Comparison("GPU", "memory", "table", "a row", 100.0, 102.0, "B", exact=False)
    right = Comparison("GPU", "memory", "table", "another", 100.4, 100.0, "B", exact=True)
    (summary,) = summaries([wrong, right])
    assert (summary.count, summary.exact, summary.worst, summary.worst_row) == (2, 1, pytest.approx(0.02), "a row")
    from collections import Counter

    assert "| 2 | 1 | 1.0 % |" in markdown(Accuracy((wrong, right), Counter()), by_table=False)

import lzma
from pathlib import Path

import pytest

from memmodel.errors import UsageError
from memmodel_validate import records, traces
from memmodel_validate.records import parse_lines, read_lines

RUN_HEADER = ",".join(records._RUN_FIELDS)
TABLE_HEADER = ",".join(records._TABLE_FIELDS)


def runs_in(text: str) -> tuple[records.Run, ...]:
    return parse_lines(text, "runs.csv", records._RUN_FIELDS, records._run)


def tables_in(text: str) -> tuple[records.Table, ...]:
    return parse_lines(text, "tables.csv", records._TABLE_FIELDS, records._table)


def test_a_row_keeps_its_numbers_as_printed() -> None:
    (run,) = runs_in(f"{RUN_HEADER}\nt,8,256,16,,20.90,,,,,0")
    assert (run.batch, run.seq, run.d) == (8, 256, 16)
    assert run.printed == {"mem_before_backward": "20.90"}
    assert not run.out_of_memory


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("t,8,256,16,,20.9,,,,0", "shorter"),
        ("t,eight,256,16,,20.9,,,,,0", "eight"),
        ("t,8,256,16,,n/a,,,,,0", "n/a"),
        ("t,8,256,16,,20.9,,,,,1", "no number and oom 1"),
        ("t,8,256,16,,,,,,,0", "no number and oom 1"),
        ("t,8,256,16,,20.9,,,,,yes", "oom"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(line: str, message: str) -> None:
    good = "t,8,256,16,,20.9,,,,,0"
    with pytest.raises(UsageError, match=rf"runs\.csv, line 3: .*{message}"):
        runs_in(f"{RUN_HEADER}\n{good}\n{line}")


def test_a_wrong_header_is_line_one() -> None:
    with pytest.raises(UsageError, match=r"runs\.csv, line 1: expected the columns table,batch"):
        runs_in("table,batch,seq")


def test_an_empty_file_has_a_wrong_header() -> None:
    with pytest.raises(UsageError, match=r"runs\.csv, line 1: expected the columns"):
        runs_in("")


@pytest.mark.parametrize(
    "line",
    [
        "t,r,p,c,g,,9,2.6.0,1,.1f,",  # compute capability without a minor
        "t,r,p,c,g,,9.0,2.6.0,MiB,.1f,",  # the unit is a number of bytes
        "t,r,p,c,g,,9.0,2.6.0,1,1 decimal,",  # no format specification
    ],
)
def test_a_wrong_table_is_named_by_file_and_line(line: str) -> None:
    with pytest.raises(UsageError, match=r"tables\.csv, line 2: "):
        tables_in(f"{TABLE_HEADER}\n{line}")


def test_a_file_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("nonsense\n")
    with pytest.raises(UsageError, match=r"/runs\.csv, line 1"):
        read_lines(path, records._RUN_FIELDS, records._run)


@pytest.mark.parametrize(
    "line",
    ["malloc,0x0,512,0,", "segment,0x0,512,0,medium", "block,0x0,512,0,", "alloc,zero,512,0,"],
)
def test_a_wrong_trace_is_named_by_file_and_line(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traces").mkdir()
    text = f"record,address,size,stream,detail\n{line}\n"
    (tmp_path / "traces" / "odd.csv.xz").write_bytes(lzma.compress(text.encode()))
    monkeypatch.setattr(traces, "DATA", tmp_path)
    with pytest.raises(UsageError, match=r"odd\.csv\.xz, line 2: "):
        traces.load_trace("odd")


def test_every_record_says_where_it_is_from() -> None:
    for table in records.tables().values():
        assert table.note
        if table.repo:  # the two seed tables were handed out without one
            assert table.path
            assert len(table.commit) == 40, table.name
    assert [name for name, table in records.tables().items() if not table.repo] == [
        "seed-eager",
        "seed-compiled",
    ]
    for trace in traces.traces().values():
        assert trace.path.endswith(".pickle")
        assert len(trace.commit) == 40, trace.name

"""The ledger: what is written is read back, what is wrong is named by file and line, nothing is lost."""

import json
import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel.base.errors import UsageError
from memmodel_validate.ledger import QUANTITIES, UNITS, Measurement, Run, Source, append, checksum, read

SOURCE = Source("bench", {"gpu": "NVIDIA H100", "torch": "2.11.0"}, {"warm-up": "3"}, {"own run": "2026-11-01"})
RUN = Run("bench", "naive", {"batch": 1, "seq": 1024}, {"forward_time": Measurement("ms", (1.5, 2.5, 2.0))})


def changed(path: Path, number: int, **content: Any) -> None:
    """Replace keys of a line, with a checksum that fits."""
    lines = path.read_text().splitlines()
    record = {**json.loads(lines[number - 1]), **content}
    record["sha256"] = checksum(record)
    lines[number - 1] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "runs.jsonl"
    append(file, [SOURCE, RUN])
    return file


def test_what_is_appended_is_read_back(path: Path) -> None:
    append(path, [RUN])
    ledger = read(path)
    assert ledger.sources == {"bench": SOURCE}
    assert ledger.runs == (RUN, RUN)
    assert ledger.incomplete == ()


numbers = st.floats(1e-9, 1e18)
texts = st.text(st.characters(categories=["L", "N", "P"]))
names = st.sampled_from(sorted(QUANTITIES))


@given(st.data())
def test_any_measurement_survives(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(names)
    unit = data.draw(st.sampled_from([u for u, (base, _) in UNITS.items() if base == QUANTITIES[name][0]]))
    measured = Measurement(unit, tuple(data.draw(st.lists(numbers, min_size=1, max_size=5))))
    run = Run("bench", data.draw(texts), {"dtype": data.draw(texts)}, {name: measured}, note=data.draw(st.text()))
    file = tmp_path_factory.mktemp("any") / "runs.jsonl"
    append(file, [SOURCE, run])
    assert read(file).runs == (run,)


def test_a_value_is_the_median_in_the_base_unit() -> None:
    assert RUN.measured["forward_time"].value == pytest.approx(2.0e-3)
    assert Measurement("MiB", printed="1.50").value == 1.5 * 2**20
    assert Measurement("TFLOP/s", printed="370").value == 370e12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"record": "tun"}, "unknown record in .*'tun'.*run"),
        ({"source": 5}, "source is 5, expected text"),
        ({"case": []}, "case is \\[\\], expected a table"),
        ({"extra": 1}, "unknown key in .*'extra'"),
        ({"source": "another"}, "a run of 'another', which no line before describes"),
        ({"measured": {"speed": {"unit": "s", "samples": [1]}}}, "unknown quantity 'speed'"),
        (
            {"measured": {"forward_time": {"unit": "MiB", "samples": [1]}}},
            "is in 'MiB', expected one of 's', 'ms', 'us'",
        ),
        ({"measured": {"forward_time": {"unit": "s", "samples": []}}}, "either samples or printed"),
        ({"measured": {"forward_time": {"unit": "s", "samples": [True]}}}, "samples.*expected a number"),
        ({"measured": {"forward_time": {"unit": "s", "samples": [-1]}}}, "samples.*expected a number"),
        ({"measured": {"forward_time": {"unit": "s", "samples": [0]}}}, "forward_time is 0"),
        ({"measured": {"forward_time": {"unit": "s", "samples": [1], "printed": "1"}}}, "either samples or printed"),
        ({"case": {"seq": 0}}, "seq is 0, expected a whole number above 0"),
        ({"case": {"batch": 1.5}}, "batch is 1.5, expected a whole number above 0"),
        ({"implementation": "\x1b[2J"}, "expected text without control characters"),
        ({"measured": {"forward_time": {"unit": "s", "printed": "fast"}}}, "printed as 'fast'"),
        ({"measured": {"forward_time": {"unit": "s", "printed": "nan"}}}, "printed as 'nan'"),
        ({"measured": {"forward_time": {"unit": "s"}}}, "either samples or printed"),
    ],
)
def test_a_wrong_record_is_named_by_file_and_line(path: Path, content: dict[str, Any], message: str) -> None:
    changed(path, 2, **content)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=message) as raised:
        read(path)
    assert "runs.jsonl, line 2" in str(raised.value)
    assert path.read_bytes() == before


def test_a_changed_number_does_not_fit_its_checksum(path: Path) -> None:
    path.write_text(path.read_text().replace("2.5", "2.4"))
    with pytest.raises(UsageError, match=r"line 2: the checksum is .* it was changed"):
        read(path)


@pytest.mark.parametrize("line", ["{", "[]", "null", "\x00\x00", "{}", "[" * 10_000])
def test_garbage_is_named(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UsageError, match=r"runs\.jsonl, line 3"):
        read(path)


def test_a_source_cannot_mean_two_things(path: Path) -> None:
    append(path, [Source("bench", {"gpu": "another"})])
    with pytest.raises(UsageError, match=r"line 3: the source 'bench' is described a second time"):
        read(path)


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_an_interrupted_write_is_left_out_and_reported(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    append(path, [RUN])
    path.write_bytes(path.read_bytes()[:-cut])
    ledger = read(path)
    assert ledger.runs == (RUN,)
    assert ledger.incomplete == (f"{path}, line 3",)
    append(path, [RUN])  # and the next write begins on a line of its own
    assert read(path).runs == (RUN, RUN)
    assert path.read_bytes().startswith(whole)


def _append_with_a_full_disk(path: str, room: int, errors: Any) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # a write beyond it fails as on a full disk
    try:
        append(path, [RUN] * 20)
    except UsageError as error:
        errors.put(str(error))


def test_a_full_disk_leaves_the_ledger_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    context = multiprocessing.get_context("fork")
    errors = context.Queue()
    child = context.Process(target=_append_with_a_full_disk, args=(str(path), len(before) + 300, errors))
    child.start()
    child.join(60)
    assert "the ledger is as it was before" in errors.get(timeout=10)
    assert path.read_bytes() == before


def _append_often(path: str) -> None:
    for _ in range(50):
        append(path, [RUN])


def test_writers_take_turns(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_often, args=(str(path),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert len(read(path).runs) == 1 + 3 * 50


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*missing .*give a ledger"):
        read(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write the ledger .*name another file"):
        append(tmp_path / "file" / "runs.jsonl", [SOURCE])
    with pytest.raises(UsageError, match="cannot write the ledger"):
        append(tmp_path, [SOURCE])


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(path: Path, constant: str) -> None:
    """Wherever they stand: compared with anything, they would agree with nothing, or pass for it."""
    text = path.read_text()
    path.write_text(text.replace("1.5", constant).replace("1024", constant))
    with pytest.raises(UsageError, match=r"runs\.jsonl, line 2"):
        read(path)


@pytest.mark.parametrize("use", [read, lambda path: append(path, [SOURCE])])
def test_devices_and_pipes_are_refused(tmp_path: Path, use: Callable[[Path], object]) -> None:
    """The first never ends, the second may never begin."""
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(UsageError, match="regular file"):
            use(path)


def test_nothing_is_written_that_could_not_be_read(path: Path) -> None:
    before = path.read_bytes()
    wrong = Run("bench", "naive", {"seq": 1}, {})
    wrong.case["seq"] = -1
    with pytest.raises(UsageError, match="a new record: seq is -1"):
        append(path, [RUN, wrong])
    assert path.read_bytes() == before

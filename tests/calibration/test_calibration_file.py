"""A calibration's file: what is written is what is read, whole or not at all, and what is wrong with one is named."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel.base.errors import UsageError
from memmodel.base.files import DATA
from memmodel.timing import Calibration, Constant, Curve
from memmodel.timing.calibration import CONSTANTS, calibration_of
from memmodel.timing.known import community, read_calibration, shipped_ids
from memmodel.timing.schema import check_document, range_of
from memmodel_validate.calibrate.store import check_writable, save

printable = st.text(st.characters(exclude_categories=["C"]), max_size=20)
sizes = st.floats(min_value=1e-9, max_value=1e18)


def constants(name: str) -> st.SearchStrategy[Constant]:
    """Numbers and curves in the range of a constant's unit."""
    least, most = range_of(CONSTANTS[name][0])
    values = st.floats(max(least, 1e-9), most)
    curves = st.dictionaries(sizes, values, min_size=1, max_size=6).map(lambda points: Curve(sorted(points.items())))
    return st.builds(Constant, values | curves, printable, st.none() | st.floats(0, 100))


names = st.sets(st.sampled_from([name for name in CONSTANTS if ".overlap" not in name]), min_size=1)
named = names.flatmap(lambda chosen: st.fixed_dictionaries({name: constants(name) for name in chosen}))
calibrations = st.builds(
    Calibration,
    printable,
    st.sampled_from(("local", "community")),
    st.dictionaries(printable, printable),
    named,
    st.lists(printable).map(tuple),
)


@given(calibrations)
def test_what_is_written_is_read(calibration: Calibration) -> None:
    assert calibration_of(check_document(json.dumps(calibration.to_dict()).encode(), "here")) == calibration


@pytest.mark.parametrize("gpu_id", shipped_ids())
def test_shipped_files_pass_the_checks_of_users_files(gpu_id: str) -> None:
    """Loading a shipped file skips them, to start fast."""
    assert read_calibration(Path(DATA) / "calibrations" / f"{gpu_id}.json") == community(gpu_id)


def test_saved_and_read(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "new" / "cpu.json"
    save(calibration, str(path))
    assert read_calibration(path) == calibration
    assert [p.name for p in path.parent.iterdir()] == ["cpu.json"]


def changed(document: dict[str, Any], *keys: str, to: Any) -> dict[str, Any]:
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return document


@pytest.mark.parametrize(
    ("keys", "to", "said"),
    [
        (("kind",), "other", "not a calibration"),
        (("schema",), 99, "schema 99"),
        (("basis",), "lokal", "did you mean local?"),
        (("constants",), {}, "constants is {}, expected a table of length >= 1"),
        (("constants",), [], "constants is [], expected a table"),
        (("machine",), None, "machine is None, expected a table"),
        (("notes",), 5, "notes is 5, expected a list"),
        (("name",), "\x1b[31mred", "name is '\\x1b[31mred', expected text without control characters"),
        (("constants", "fault", "unit"), "GB/s", "fault is in 'GB/s', expected 'B/s'"),
        *(
            (
                ("constants", "fault", "value"),
                value,
                f"fault: value is {value!r}, expected a number from 1e-09 to 1e+18",
            )
            for value in (float("nan"), float("inf"), -1.0, 0, 1e-308, 1e300, "fast", True)
        ),
        (("constants", "launch", "value"), -1.0, "launch: value is -1.0, expected a number"),
        (("constants", "flash.overlap", "value"), 1.5, "flash.overlap is 1.5, expected a share from 0 to 1"),
        (("constants", "fault", "value"), [], "fault: value is [], expected a list of length >= 1"),
        (("constants", "fault", "value"), [[1, 2], [1, 3]], "sizes of fault must rise"),
        (("constants", "fault", "value"), [[1, 0]], "value[0][1] is 0, expected a number"),
        (("constants", "fault", "value"), [[1]], "value[0] is [1], expected a list of length 2"),
        (("constants", "fault", "spread"), -0.1, "fault: spread is -0.1"),
        (("constants", "fault"), 3.0, "fault: the whole is 3.0, expected a table"),
        (("constants", "bandwith"), {"value": 1.0}, "did you mean bandwidth"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(file: Path, keys: tuple[str, ...], to: Any, said: str) -> None:
    file.write_text(json.dumps(changed(json.loads(file.read_text()), *keys, to=to)))
    with pytest.raises(UsageError) as error:
        read_calibration(file)
    assert said in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, "\x00"])
def test_what_is_no_json_is_named(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=r"not JSON"):
        read_calibration(file)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"calibration"'])
def test_json_that_is_no_calibration_is_named(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match="not a calibration"):
        read_calibration(file)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="memmodel calibrate"):
        read_calibration(tmp_path / "none.json")


def test_a_full_disk_leaves_the_old_file(calibration: Calibration, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_text()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("memmodel_validate.calibrate.store.os.fsync", full)
    with pytest.raises(UsageError, match=r"No space left on device.*-o FILE"):
        save(calibration, str(file))
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_interrupted_write_leaves_the_old_file(
    calibration: Calibration, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_text()

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memmodel_validate.calibrate.store.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(calibration, str(file))
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_places_that_cannot_be_written_are_named_before_measuring(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        check_writable(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        check_writable(str(tmp_path / "file" / "cpu.json"))

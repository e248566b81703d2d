"""A calibration's file: what is written is what is read, whole or not at all, and what is wrong with one is named."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel.errors import UsageError
from memmodel.timing import Calibration, Constant, Curve
from memmodel.timing.calibration import CONSTANTS, parse_calibration, read_calibration
from memmodel_validate.calibrate.store import check_writable, save

positive = st.floats(min_value=1e-9, max_value=1e18)
curves = st.dictionaries(positive, positive, min_size=1, max_size=6).map(lambda points: Curve(sorted(points.items())))
constants = st.builds(Constant, positive | curves, st.text(max_size=20), st.none() | st.floats(0, 100))


@given(
    st.builds(
        Calibration,
        st.text(min_size=1, max_size=20),
        st.sampled_from(("local", "community")),
        st.dictionaries(st.text(max_size=8), st.text(max_size=8)),
        st.dictionaries(st.sampled_from(sorted(CONSTANTS)), constants, min_size=1),
        st.lists(st.text(max_size=20)).map(tuple),
    )
)
def test_what_is_written_is_read(calibration: Calibration) -> None:
    assert parse_calibration(json.loads(json.dumps(calibration.to_dict())), "here") == calibration


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
        (("kind",), "other", "no calibration"),
        (("schema",), 99, "schema 99"),
        (("basis",), "lokal", "did you mean local?"),
        (("constants",), {}, "at least one constant"),
        (("constants",), [], "not whole"),
        (("machine",), None, "not whole"),
        (("constants", "fault", "unit"), "GB/s", "fault is in 'GB/s', expected 'B/s'"),
        (("constants", "fault", "value"), float("nan"), "fault is nan"),
        (("constants", "fault", "value"), float("inf"), "fault is inf"),
        (("constants", "fault", "value"), -1.0, "fault is -1.0"),
        (("constants", "fault", "value"), 0, "fault is 0"),
        (("constants", "fault", "value"), "fast", "fault is 'fast'"),
        (("constants", "fault", "value"), True, "fault is True"),
        (("constants", "fault", "value"), [], "points [size, rate]"),
        (("constants", "fault", "value"), [[1, 2], [1, 3]], "rising sizes"),
        (("constants", "fault", "value"), [[1, 0]], "rates above 0"),
        (("constants", "fault", "value"), [[1]], "points [size, rate]"),
        (("constants", "fault", "spread"), -0.1, "the spread of fault"),
        (("constants", "fault"), 3.0, "fault must be an object with a value"),
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
    with pytest.raises(UsageError, match=r"no JSON|no calibration"):
        read_calibration(file)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"calibration"'])
def test_json_that_is_no_calibration_is_named(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match="no calibration"):
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

"""The commands: to the terminal, to files, as numbers; and what they say about wrong use."""

import builtins
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from picture_cases import cases, run
from rich.console import Console

from memmodel.base.errors import UsageError
from memmodel.gpus import load_gpu
from memmodel.pictures.timeline import timeline
from memmodel.report.console import text
from memmodel.report.terminal import NARROWEST

COMMANDS = (
    ("timeline", "--gpu", "A100", "--seq", "16384"),
    ("timeline", "--gpu", "H100", "--seq", "8k", "-a", "chunked,checkpointed,compiled"),
    ("roofline", "--gpu", "A100", "--seq", "16384"),
    ("roofline", "--gpu", "T4", "--dtype", "fp32", "-a", "naive-by-hand"),
    ("roofline", "--gpu", "A100", "-a", "flash", "--dtype", "fp16", "--measured"),
    ("frontier", "--gpu", "A100,T4", "--dtype", "fp16", "--sizes", "1,4,16"),
    ("frontier", "--gpu", "T4", "-a", "naive", "--heat", "--dtype", "fp16", "--sizes", "1,4"),
    ("frontier", "--against", "heads", "--like", "llama-3-8b", "--sizes", "4,8"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_pipe_gets_80_columns_without_colours(command: tuple[str, ...]) -> None:
    output = run(*command).output
    assert "\x1b" not in output
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("command", "kind"), [*((command, "svg") for command in COMMANDS), (COMMANDS[0], "png"), (COMMANDS[6], "png")]
)
def test_files_are_written_and_are_the_same_each_time(command: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    first, second = tmp_path / f"first.{kind}", tmp_path / f"second.{kind.upper()}"
    for file in (first, second):
        told = run(*command, "-o", str(file)).output
        assert told == f"wrote {file} ({file.stat().st_size:,} bytes)\n"
    assert first.read_bytes() == second.read_bytes()
    start = first.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if kind == "png" else b"<svg" in first.read_bytes()[:1000]
    assert b"dc:date" not in first.read_bytes()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_data_is_json_with_a_version_and_a_kind(command: tuple[str, ...]) -> None:
    found = json.loads(run(*command, "--data").output)
    assert found["schema"] == 1
    assert found["kind"] == ("heat map" if "--heat" in command else command[0])


def test_data_has_the_numbers_of_predict() -> None:
    case = ("--gpu", "A100", "--seq", "16384")
    predicted = json.loads(run("predict", *case, "--json").output)["predictions"]
    panels = json.loads(run("timeline", *case, "--data").output)["panels"]
    for panel, prediction in zip(panels, predicted, strict=True):
        assert panel["memory"] == prediction["memory"]
        assert max(m["allocated_bytes"] for m in panel["moments"]) == prediction["memory"]["allocated_peak_bytes"]
        assert panel["moments"][panel["peak"]]["live_bytes"] == prediction["memory"]["live_peak_bytes"]
    points = json.loads(run("roofline", *case, "--data").output)["points"]
    for prediction in predicted:
        kernels = prediction["time"]["kernels"]
        for point in points:
            if point["algorithm"] == prediction["algorithm"]:
                assert sum(k["seconds"] == point["seconds"] for k in kernels) >= point["launches"]


def test_data_has_the_numbers_of_max() -> None:
    (line,) = json.loads(run("frontier", "--gpu", "A100", "-a", "naive", "--sizes", "8", "--data").output)["lines"]
    (found,) = json.loads(run("max", "--gpu", "A100", "-a", "naive", "--batch", "8", "--step", "128", "--json").output)[
        "thresholds"
    ]
    assert line["walls"] == [{"size": 8, "largest": found["largest"]}]


@pytest.mark.parametrize("command", COMMANDS[:1] + COMMANDS[2:3] + COMMANDS[5:7], ids=" ".join)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("picture.jpg", "expected a file name that ends in .svg or .png"),
        ("picture", "expected a file name that ends in .svg or .png"),
        ("missing/picture.svg", r"can't be written \(No such file or directory\): choose another place with -o"),
        ("there.svg", "exists: add --force to overwrite it"),
    ],
)
def test_a_file_that_cannot_be_is_one_sentence(command: tuple[str, ...], name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "there.svg").write_text("mine")
    with pytest.raises(UsageError, match=words):
        run(*command, "-o", str(tmp_path / name))
    assert (tmp_path / "there.svg").read_text() == "mine"


def test_force_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "there.svg"
    file.write_text("mine")
    run("timeline", "-o", str(file), "--force")
    assert "<svg" in file.read_text()


@pytest.mark.parametrize("command", [("timeline",), ("roofline",), ("frontier", "--sizes", "64"), ("report",)])
def test_without_matplotlib_a_sentence_says_what_to_install(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_matplotlib(monkeypatch)
    file = tmp_path / ("new.html" if command == ("report",) else "new.svg")
    with pytest.raises(UsageError, match=r"need matplotlib, .*: run pip install 'memmodel\[plot\]'"):
        run(*command, "-o", str(file))
    assert not file.exists()


def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [
        name
        for name in sys.modules
        if name.startswith(("memmodel.report.figure", "memmodel.report.style", "memmodel.report.labels"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    imported = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("frontier", "--seq", "4096"), "--seq 4096: the picture varies it"),
        (("frontier", "--batch", "4"), "--batch 4: the picture varies it"),
        (("frontier", "--heat"), "--heat with 2 lines: give one --gpu and one --algorithm"),
        (("frontier", "--sizes", "4,2"), "batch 4,2: expected rising sizes"),
        (("frontier", "--sizes", "x"), "expected a whole number"),
        (("frontier", "--against", "seq"), "unknown size 'seq'"),
        (("timeline", "-a", "nothing"), "unknown algorithm 'nothing'"),
        (("roofline", "--gpu", "T4"), "; or try --dtype fp16"),
        (("report",), "give the file to write, with -o report.html or -o report.md"),
        (("report", "-o", "report.pdf"), "expected a file name that ends in .html or .md"),
        (("accuracy", "--plot", "x.pdf"), "expected a file name that ends in .svg or .png"),
    ],
)
def test_wrong_use_is_one_sentence(command: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as found:
        run(*command)
    assert "\n" not in str(found.value)


def shown(width: int, encoding: str = "utf-8", term: str = "xterm-256color", picture: Any = None) -> str:
    """A picture on a terminal of that width."""
    (case,), gpu = cases("A100", ["naive"], {"seq": 16384})
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, force_terminal=True, _environ={"TERM": term}, highlight=False)
    console.print(picture or timeline(case, gpu))
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [NARROWEST, 80, 133, 250])
def test_a_terminal_of_any_width_is_filled_and_not_exceeded(width: int) -> None:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown(width).splitlines()]
    assert max(map(len, lines)) == width


def test_a_terminal_too_narrow_says_so() -> None:
    assert "30 columns are too narrow" in shown(30).replace("\n", " ")
    assert "│" not in shown(NARROWEST - 1)


def test_colours_only_where_the_terminal_has_them() -> None:
    assert "\x1b[" in shown(80)
    assert "\x1b[3" not in shown(80, term="dumb")


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert shown(80, encoding="ascii").isascii()
    assert shown(80, term="dumb").isascii()


def test_pictures_show_themselves_in_notebooks_and_print(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,), gpu = cases("A100", ["naive"], {"seq": 16384})
    picture = timeline(case, gpu)
    assert str(picture) == text(picture)
    assert picture._repr_html_().startswith("<svg")
    without_matplotlib(monkeypatch)
    assert picture._repr_html_().startswith("<pre>")


def test_a_step_with_many_moments_shows_its_peak() -> None:
    output = run("timeline", "--gpu", "H100", "-a", "chunked", "--seq", "64k").output
    assert "a column is the fullest of 27 moments or so" in output
    assert "▼ peak 19.99 GiB, in backward: SoftmaxBackward: mul is made" in output


def test_a_frontier_where_nothing_fits_says_so(tmp_path: Path) -> None:
    command = ("frontier", "--gpu", "T4", "--dtype", "fp16", "-a", "naive", "--sizes", "4M,8M")
    assert "none     none" in run(*command).output
    run(*command, "-o", str(tmp_path / "none.svg"))
    assert "nothing fits from batch 4194304 on" in (tmp_path / "none.svg").read_text()
    run(*command, "--heat", "-o", str(tmp_path / "map.svg"))


def test_saving_refuses_other_kinds(tmp_path: Path) -> None:
    (case,), gpu = cases("A100", ["flash"], {})
    with pytest.raises(UsageError, match=r"ends in \.svg or \.png"):
        timeline(case, gpu).save(tmp_path / "picture.pdf")


def test_drawing_needs_no_display_and_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    import matplotlib as mpl

    (case,), gpu = cases("A100", ["flash"], {})
    assert "DISPLAY" not in os.environ or os.environ["DISPLAY"]
    with mpl.rc_context({"font.size": 33.0}):
        before = dict(mpl.rcParams)
        timeline(case, gpu).save(tmp_path / "a.svg")
        assert dict(mpl.rcParams) == before
    timeline(case, gpu).save(tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.usefixtures("judged_once")
def test_accuracy_draws_what_it_lists(tmp_path: Path) -> None:
    from memmodel_validate.accuracy import accuracy
    from memmodel_validate.accuracy_plot import plotted

    judged = [j for j in accuracy().comparisons if j.unit]
    found = list(plotted(judged))
    assert len(found) >= 0.95 * len(judged)
    assert all(one.measured > 0 for one in found)
    run("accuracy", "--quantity", "flash step", "--plot", str(tmp_path / "a.svg"))
    assert "predicted against measured" in (tmp_path / "a.svg").read_text()


def test_measured_points_are_recorded_runs_of_the_same_shape() -> None:
    found = json.loads(run("roofline", "-a", "flash", "--dtype", "fp16", "--measured", "--data").output)
    assert found["measured"]
    for one in found["measured"]:
        assert "head_dim 128" in one["what"]
        assert "mask none" in one["what"]
        assert one["rate"] == pytest.approx(one["flops"] / one["seconds"])
    peak = next(roof["rate"] for roof in found["roofs"] if roof["name"] == found["peak"])
    assert all(one["rate"] < 1.02 * peak for one in found["measured"])
    assert load_gpu("A100").name == found["gpu"]


def test_a_gpu_without_records_says_so() -> None:
    found = json.loads(run("roofline", "--gpu", "L40S", "-a", "naive", "--measured", "--data").output)
    assert found["measured"] == []
    assert "on record on this GPU" in found["notes"][0]

"""Names in any case, output in any encoding, files that are not overwritten, sizes that are too many."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import memmodel
from memmodel.base.errors import UsageError
from memmodel.base.units import number_text, seconds_text
from memmodel.cli import cli
from memmodel.cli.output import plain

ROOT = Path(memmodel.__file__).parents[1]


def run(*arguments: str) -> str:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False).output


def process(
    arguments: Sequence[str], stdout: Any = subprocess.PIPE, **settings: str
) -> "subprocess.CompletedProcess[bytes]":
    """A command in a process of its own."""
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "validate"))
    return subprocess.run(
        [sys.executable, "-m", "memmodel", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths, **settings},
        check=False,
    )


@pytest.mark.parametrize(
    ("spelled", "plainly"),
    [
        ("predict --mask CAUSAL --phase Train --dtype BF16 -a NAIVE", "predict --mask causal -a naive"),
        ("max --over SEQ -a naive --step 1k", "max --over seq -a naive --step 1k"),
        ("frontier --against Batch -a naive --data", "frontier --against batch -a naive --data"),
        ("sweep --format JSON", "sweep --format json"),
        ("completion ZSH", "completion zsh"),
        ("validate --list --device CPU --suite Full", "validate --list --device cpu --suite full"),
    ],
)
def test_names_may_be_in_any_case(spelled: str, plainly: str) -> None:
    assert run(*spelled.split()) == run(*plainly.split())


def test_a_name_given_twice_is_one() -> None:
    assert run("predict", "-a", "naive,naive") == run("predict", "-a", "naive")


def test_a_mask_that_is_asked_for_replaces_the_model_s_window() -> None:
    like = ("predict", "--like", "mistral-7b", "--seq", "8k", "-a", "naive", "--json")
    masks = {
        mask: json.loads(run(*like, "--mask", mask))["predictions"][0]["case"]["mask"] for mask in ("none", "causal")
    }
    assert masks == {"none": "none", "causal": "causal"}
    assert json.loads(run(*like))["predictions"][0]["case"]["mask"] == "window"


@pytest.mark.parametrize("arguments", [["predict"], ["formulas"], ["timeline", "-a", "naive"], ["roofline"], ["max"]])
def test_an_ascii_stream_gets_ascii(arguments: list[str]) -> None:
    done = process(arguments, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode("ascii")
    assert "?" not in shown
    if arguments == ["formulas"]:
        assert "2*b*h*n^2" in shown
        assert "where 4*n >= 3*d" in shown


@pytest.mark.parametrize(
    ("character", "ascii"), [("²", "^2"), ("ᵀ", "^T"), ("≤", "<="), ("·", "*"), ("é", "e"), ("█", "#"), ("漢", "?")]
)
def test_characters_in_ascii(character: str, ascii: str) -> None:
    assert plain(character) == ascii


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["predict"], ["predict", "--json"], ["sweep"], ["formulas"]])
def test_a_full_disk_is_one_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = process(arguments, full)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("memmodel: No space left on device")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "command", [["sweep"], ["timeline"], ["explore"], ["report"], ["accuracy", "--quantity", "CPU"], ["calibrate"]]
)
def test_no_file_is_overwritten_unasked(command: list[str], tmp_path: Path) -> None:
    suffix = {"explore": "html", "report": "md", "calibrate": "json"}.get(command[0], "svg")
    there = tmp_path / f"there.{suffix}"
    there.write_text("mine")
    with pytest.raises(UsageError, match="add --force"):
        run(*command, "--plot" if command[0] == "accuracy" else "-o", str(there))
    assert there.read_text() == "mine"


def test_a_sweep_into_json_is_json(tmp_path: Path) -> None:
    run("sweep", "-o", str(tmp_path / "all.json"))
    assert (tmp_path / "all.json").read_text() == run("sweep", "--format", "json").rstrip("\n")
    run("sweep", "-o", str(tmp_path / "all.csv"))
    assert (tmp_path / "all.csv").read_text() == run("sweep")


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        (["--seq", "1:2G:1"], "whole number"),
        (["--seq", "1:1024M:1"], "1,073,741,824 sizes make more than 10,000,000 configurations"),
        (["--seq", "1:8k:1", "--batch", "1:8k:1"], "8,192 sizes make more than"),
        (["--seq", "1:9M:1,1:9M:1"], "18,874,368 sizes make more than"),
        (["--seq", f"1:{10**30}:1"], "taken for a mistake"),
    ],
)
def test_a_sweep_that_would_not_end_is_refused(ranges: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run("sweep", *ranges)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.25, "0.25"), (1 / 6, "0.1667"), (42.714, "42.71"), (999.96, "1,000"), (6130.6, "6,131"), (12259.9, "12,260")],
)
def test_a_number_has_four_digits_and_no_power_of_ten(value: float, shown: str) -> None:
    assert number_text(value) == shown
    assert seconds_text(value * 1000) == f"{number_text(value * 1000)} s"


def test_what_is_public_is_listed_and_there() -> None:
    assert {"formulas", "sweep", "threshold", "predict", "trace"} <= set(memmodel.__all__)
    assert all(hasattr(memmodel, name) for name in memmodel.__all__)
    assert dir(memmodel) == sorted(memmodel.__all__)

"""Command lines that are read without click have the values that click reads, and all others are left to it."""

import importlib
import shlex
import subprocess
import sys
from typing import Any

import click
import pytest

from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.cli.commands import COMMANDS
from transcripts import COMMAND, PAGES

RUN = {match["arguments"]: match["body"] for path in PAGES for match in COMMAND.finditer(path.read_text("utf-8"))}
LINES = [line for line, body in RUN.items() if line.split()[0] in COMMANDS and "$ echo $?" not in body]


def plain(line: str) -> dict[str, Any] | None:
    name, *words = shlex.split(line)
    found: dict[str, Any] | None = importlib.import_module(f"memmodel.cli.{name}").command.values(words)
    return found


def by_click(line: str) -> dict[str, Any]:
    name, *words = shlex.split(line)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command.make_context(name, words).params


def test_lines_of_the_book_have_the_values_that_click_reads() -> None:
    read = {line: values for line in LINES if (values := plain(line)) is not None}
    assert len(read) > len(LINES) / 2
    assert {line: by_click(line) for line in read} == read


def test_a_wrong_value_is_the_same_error() -> None:
    with pytest.raises(UsageError) as by_us:
        plain("predict --seq many")
    with pytest.raises(UsageError, match=f"^{by_us.value}$"):
        by_click("predict --seq many")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("predict --seq 16k --gpu=A100 -a naive", {"seq": 16384, "gpu": "A100", "algorithms": "naive"}),
        ("predict --dropout 0.5 --deterministic --seq 1 --seq 2", {"dropout": 0.5, "deterministic": True, "seq": 2}),
        ("model --like gpt2 --zero 2", {"like": "gpt2", "zero": 2, "reshard": None, "clip": None}),
        ("max --model gpt2 --set a=1 --set b=2", {"settings": ("a=1", "b=2"), "step": 1, "over": "seq"}),
    ],
)
def test_values(line: str, expected: dict[str, Any]) -> None:
    found = plain(line)
    assert found is not None
    assert expected.items() <= found.items()
    assert found == by_click(line)


@pytest.mark.parametrize(
    "line",
    [
        "predict --help",
        "predict --sqe 4",
        "predict --gpu",
        "predict --gpu ''",
        "predict --gpu=",
        "predict --seq -5",
        "predict --json=yes",
        "predict -anaive",
        "predict A100",
        "predict -- --json",
        "formulas --latex",  # it has an argument
        "model --no-reshard",
    ],
)
def test_what_click_reads(line: str) -> None:
    assert plain(line) is None


def test_a_plain_line_imports_neither_click_nor_dataclasses() -> None:
    code = (
        "import sys, io; from memmodel.cli import run; out, sys.stdout = sys.stdout, io.StringIO()\n"
        "status = run(['predict', '--seq', '1k', '--json'])\n"
        "print(status, [name for name in ('click', 'dataclasses', 'inspect') if name in sys.modules], file=out)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n"

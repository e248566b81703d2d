"""Files that never end, streams that are closed, text that drives a terminal: one sentence, or the shell's status."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memmodel
from memmodel.base.errors import UsageError
from memmodel.base.files import read_bytes
from memmodel.cli.commands import COMMANDS
from memmodel.gpus import load_gpu
from memmodel.predictor import predict
from memmodel.report.console import text

ROOT = Path(memmodel.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "validate"))}


def shell(arguments: str, redirected: str = "") -> "subprocess.CompletedProcess[bytes]":
    """A command as somebody types it into a shell."""
    command = f"{sys.executable} -m memmodel {arguments} {redirected}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, env=ENVIRONMENT, check=False, timeout=60
    )


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    """A pipe that nobody writes into: opening it to read blocks."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return str(path)


@pytest.mark.parametrize("option", ["predict --gpu-file", "predict --calibration", "accuracy --ledger", "replay"])
def test_devices_and_pipes_are_not_read(option: str, fifo: str) -> None:
    for path in (fifo, "/dev/zero"):
        done = shell(f"{option} {path}")
        assert done.returncode == 2
        assert done.stderr.startswith(b"memmodel: ")
        assert path.encode() in done.stderr
        assert b"regular file" in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"12345")
    assert read_bytes(path, most=5) == b"12345"
    with pytest.raises(UsageError, match=r"longer than 4 bytes.*: cut it"):
        read_bytes(path, "cut it", most=4)


@pytest.mark.parametrize("name", ["a\0b", "", "x" * 5000])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_bytes(name)


def test_a_reader_that_goes_away_ends_a_command_by_the_signal() -> None:
    done = shell("sweep --seq 1k:64k:1 -a naive", "| head -n 1")
    assert done.returncode == 128 + signal.SIGPIPE
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "redirected", "status", "said"),
    [
        ("predict", ">&-", 2, b"memmodel: standard output is closed"),
        ("predict --json", "2>&-", 0, b""),
        ("predict --seq x", "2>&-", 2, b""),
        ("predict --seq x", "2>/dev/full", 2, b""),
        ("predict --seq x", "2> >(true)", 2, b""),
        ("predict", "<&- >&- 2>&-", 2, b""),
        ("predict --json", "<&-", 0, b""),
        ("predict --help", ">/dev/full", 2, b"memmodel: No space left on device"),
    ],
)
def test_closed_and_full_streams(arguments: str, redirected: str, status: int, said: bytes) -> None:
    done = shell(arguments, redirected)
    assert done.returncode == status
    assert done.stderr.startswith(said)
    assert done.stderr.count(b"\n") == (1 if said else 0)


# Each line runs in a fork of one process that has imported the commands; -13 is an end by SIGPIPE.
EVERY_COMMAND = """
import gc, json, os, sys
from click.testing import CliRunner
from memmodel.cli import main
from memmodel.cli.clicked import cli
from memmodel.cli.commands import COMMANDS

def ended(words, closes):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    closes()
    sys.argv = ["memmodel", *words]
    main()

def close(number, name):
    os.close(number)
    setattr(sys, name, None)

def output_to(number):
    os.dup2(number, 1)
    sys.stdout = open(1, "w")

def no_reader():
    reader, writer = os.pipe()
    os.close(reader)
    output_to(writer)

STREAMS = {
    "closed output": lambda: close(1, "stdout"),
    "closed error": lambda: close(2, "stderr"),
    "no reader": no_reader,
    "full": lambda: output_to(os.open("/dev/full", os.O_WRONLY)),
}
answers = ["gpus", "models", "predict --seq 64 --json", "sweep", "formulas naive", "completion bash"]
lines = [["--version"], *([name, "--help"] for name in COMMANDS), *map(str.split, answers)]
for line in lines:  # what these import, no fork has to
    CliRunner().invoke(cli, line)
gc.freeze()  # or each fork goes through, and so copies, all that is there
kept = os.dup(2)
found = {name: {" ".join(line): ended(line, closes) for line in lines} for name, closes in STREAMS.items()}
os.write(kept, json.dumps(found).encode())
"""


@pytest.mark.slow
def test_every_command_ends_with_the_status_of_the_stream() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_COMMAND], capture_output=True, env=ENVIRONMENT, check=True)
    expected = {"closed output": 2, "closed error": 0, "no reader": -signal.SIGPIPE, "full": 2}
    for stream, of_lines in json.loads(done.stderr.splitlines()[-1]).items():
        assert of_lines == dict.fromkeys(of_lines, expected.pop(stream)), stream
        assert len(of_lines) > len(COMMANDS)
    assert expected == {}
    assert b"Traceback" not in done.stderr


def test_closed_output_does_not_end_up_in_the_next_file(tmp_path: Path) -> None:
    shell(f"sweep -o {tmp_path / 'rows.csv'}", ">&-")
    assert list(tmp_path.iterdir()) == []


def test_text_of_a_file_drives_no_terminal() -> None:
    """The name of a GPU file is refused; what comes from elsewhere is cleaned where it is printed."""
    from dataclasses import replace

    gpu = replace(load_gpu("A10"), name="\x1b]0;title\x07 [red]A[/b]")
    shown = text(predict(gpu, "naive", seq=512))
    assert "]0;title [red]A[/b]" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_an_error_is_one_line_without_control_characters() -> None:
    done = shell(r"predict --gpu $'\e[31mred\nA100'")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize("given", [(load_gpu("A100"),) * 3, "x" * 100_000])
def test_an_error_shows_what_was_given_in_part(given: object) -> None:
    with pytest.raises(UsageError, match="expected a whole number") as refused:
        memmodel.predict(seq=given)  # type: ignore[call-overload]
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"large_segment": None}, "large_segment None: expected a number of bytes"),
        ({"max_split_size": "64"}, "max_split_size '64': expected a number of bytes"),
        ({"roundup_power2_divisions": 3}, "roundup_power2_divisions 3: expected a power of two, or 16"),
        ({"roundup_power2_divisions": (4, 2)}, "expected a power of two, or 16 in a tuple"),
        ({"expandable_segments": "yes"}, "expandable_segments 'yes': expected True or False"),
    ],
)
def test_settings_of_the_allocator_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        memmodel.AllocatorConfig(**wrong)

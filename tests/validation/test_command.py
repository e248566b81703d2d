"""`memmodel validate` as typed: one line for a mistake, records that stay, a status that says how it went."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from answers import Job
from click.testing import CliRunner

from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel_validate import environment, validation
from memmodel_validate.suite import trials


def run(*args: str) -> tuple[object, str, str]:
    """(status, stdout, stderr)."""
    result = CliRunner().invoke(cli, ["validate", *args], catch_exceptions=False, standalone_mode=False)
    return result.return_value, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--device", "cdua"], "unknown device 'cdua': did you mean cuda"),
        (["--suite", "quik"], "unknown suite 'quik': did you mean quick"),
        (["--device", "cpu", "--case", "naiv-512"], "unknown case 'naiv-512': did you mean naive-512"),
        (["--case", "triton-flash-2048", "--device", "cpu"], "unknown case 'triton-flash-2048'"),
        (["--timeout", "0"], "timeout 0: expected seconds above 0"),
        (["--threads", "0"], "threads 0: expected a whole number from 1 to 1024"),
        (["--calibration", "/nowhere/at/all"], "cannot read /nowhere/at/all"),
        (["--ledger", "/dev/full", "--device", "cpu"], "cannot read /dev/full (it is a device"),
        (["--ledger", "/proc/nowhere/runs.jsonl", "--device", "cpu"], "cannot write the ledger /proc/nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(args: list[str], told: str) -> None:
    with pytest.raises(UsageError) as error:
        run(*args)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'memmodel\[torch\]'"):
        run("--device", "cpu")


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(validation, "probed", lambda: {"reason": "torch sees no GPU on this machine"})
    with pytest.raises(UsageError, match="device cuda: torch sees no GPU on this machine; choose --device cpu"):
        run("--device", "cuda", "--ledger", str(tmp_path / "runs.jsonl"))


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    ledger = tmp_path / "runs.jsonl"
    ledger.write_text('{"schema": 1}\n')
    with pytest.raises(UsageError, match=r"runs\.jsonl, line 1: the checksum is None"):
        run("--device", "cpu", "--ledger", str(ledger))


def test_the_names_of_a_suite() -> None:
    status, out, _ = run("--list", "--device", "cuda", "--suite", "full")
    assert status == 0
    assert out.split() == [trial.name for trial in trials("cuda", "full")]
    assert len(set(out.split())) == len(out.split())


def test_real_processes_and_a_second_run_that_starts_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = str(tmp_path / "runs.jsonl")
    args = ["--device", "cpu", "--case", "naive-512", "--case", "sdpa-flash-512", "--ledger", ledger, "--json"]
    status, out, err = run(*args)
    found = json.loads(out)
    assert (status, found["broken"]) == (0, [])
    assert found["promises"]["cases"] == found["promises"]["kept"] == 1
    assert all(case["times"]["forward_time"]["samples"] >= 7 for case in found["cases"])
    assert err.splitlines() == ["[1/2] naive-512: equal to the byte", "[2/2] sdpa-flash-512: measured"]

    def nothing(job: Job, timeout: float) -> Job:
        raise AssertionError("a case on record is run again")

    monkeypatch.setattr(validation, "ask", nothing)
    status, out, _ = run(*args)
    assert status == 0
    assert all(case["resumed"] for case in json.loads(out)["cases"])


def test_a_failed_case_is_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "ask", lambda job, timeout: {"failed": "ended by signal SIGSEGV"})
    status, out, _ = run("--device", "cpu", "--case", "naive-512", "--ledger", str(tmp_path / "runs.jsonl"))
    assert status == 1
    assert "naive-512: ended by signal SIGSEGV" in out


def test_an_interrupt_is_status_130_and_leaves_no_process(tmp_path: Path) -> None:
    ledger = tmp_path / "runs.jsonl"
    # A terminal's shell leaves SIGINT at its default; a test run in the background may have it ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import memmodel.cli as c; c.main()"
    path = ":".join(p for p in sys.path if p)
    process = subprocess.Popen(
        [sys.executable, "-c", code, "validate", "--device", "cpu", "--ledger", str(ledger)],
        stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"})  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        for _ in range(1200):
            if ledger.exists() and children.read_text().strip():
                break
            time.sleep(0.05)
        worker = children.read_text().split()[0]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()  # where it did not end: nothing is left to run on
    assert process.returncode == 130
    assert err == (
        f"memmodel: interrupted after 0 of 14 cases, which are in {ledger}; the same command goes on from there\n"
    )
    for _ in range(200):  # one that had only just been started ends when it finds nobody there
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()

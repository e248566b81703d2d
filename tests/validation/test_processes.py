"""Whatever happens to a worker's process is an answer, and nothing of it is left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memmodel_validate.processes import ask

PATHS = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def worker(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal SIGKILL, as the system does when memory runs out"),
        ("raise SystemExit('out of luck in /home/somebody/x.py')", "ended with status 1: out of luck in x.py"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("print('hello')", "its answer is no JSON"),
        ("print('[]')", "its answer is no object"),
        ("", "its answer is no JSON"),
        ('print(\'{"failed": "not in /opt/a/b.py"}\')', "not in b.py"),
    ],
)
def test_a_failure_is_an_answer(code: str, why: str) -> None:
    assert ask({}, 20, worker(code)) == {"failed": why}


def test_the_job_arrives_and_the_answer_comes_back() -> None:
    assert ask({"a": 1}, 20, worker("print(input())")) == {"a": 1, "parent": os.getpid()}


def test_a_worker_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import subprocess, sys, os\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "child.wait()"
    )
    assert ask({}, 1.5, worker(code)) == {"failed": "no answer within 1.5 s"}
    assert [pid for pid in map(int, pids.read_text().split()) if _runs(pid)] == []


def test_a_worker_ends_with_the_process_that_asked_it() -> None:
    """That one is killed, so that it can end nothing itself."""
    watched = "import os, time, memmodel_validate.processes as p; p.end_with(os.getppid()); "
    work = f"{watched}print(os.getpid()); time.sleep(60)"
    asks = f"import subprocess, sys; subprocess.run([sys.executable, '-uc', {work!r}])"
    process = subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True, env=PATHS)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=30)
    assert not _runs(pid)


@pytest.mark.parametrize("module", ["worker", "ranks.process"])
def test_every_process_that_works_for_another_ends_with_it(module: str) -> None:
    """Told that process 1 asked, which is not its parent, it takes its own for gone."""
    command = [sys.executable, "-m", f"memmodel_validate.{module}", "program", "file"]
    env = PATHS | {"MEMMODEL_PARENT": "1", "RANK": "0"}
    done = subprocess.run(command, input='{"parent": 1}', capture_output=True, text=True, env=env, timeout=200)
    assert (done.returncode, done.stderr) == (1, "the process that asked is gone\n")


def _runs(pid: int) -> bool:
    """Whether a process still runs, given a moment to go; one that waits to be collected does not run."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True

"""Run a job in a worker process. A crash, a hang and unreadable output are answers, with the reason."""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

WORKER = (sys.executable, "-P", "-m", "memmodel_validate.worker")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NOISE = re.compile(r"^(USDT:|\[W|STAGE:)")  # messages of libraries on stderr, which are no errors
_PATH = re.compile(r"(?<![\w.])/[^\s:'\"]*/")  # folders can name the machine's user; a file's name is enough


def ask(job: Mapping[str, Any], timeout: float, command: Sequence[str] = WORKER) -> dict[str, Any]:
    """The worker's answer to a job; {"failed": why} without one in `timeout` seconds.

    The process leads its own session, so that Ctrl-C at the terminal reaches the caller alone, which then ends it.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True
    )
    try:
        out, said = process.communicate(json.dumps({"parent": os.getpid(), **job}).encode(), timeout)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer within {timeout:g} s"}
    finally:
        _end(process)
    return _answer(process.returncode, out, said.decode(errors="replace"))


def end_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, even by SIGKILL; elsewhere it ends with its trial."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was watched
        raise SystemExit("the process that asked is gone")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _answer(status: int, out: bytes, said: str) -> dict[str, Any]:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return {"failed": f"ended by signal {name}{hint}"}
    lines = [line for line in said.splitlines() if line.strip() and not _NOISE.match(line)]
    if status:
        return {"failed": _short(f"ended with status {status}{f': {lines[-1]}' if lines else ''}")}
    try:
        found = json.loads(out)
    except ValueError:
        return {"failed": "its answer is no JSON"}
    if not isinstance(found, dict):
        return {"failed": "its answer is no object"}
    return {**found, "failed": _short(found["failed"])} if "failed" in found else found


def _short(text: str) -> str:
    """One line without folders."""
    line = " ".join(_PATH.sub("", text).split())
    return line if len(line) <= 200 else f"{line[:199]}…"

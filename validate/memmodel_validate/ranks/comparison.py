"""Real ranks beside the trace: every rank's allocator events, in order, and its peaks.

A thread of the network's library may free a tensor, where no profiler looks (see `quiet`). Where the run proves that it
did, the free counts at the moment the trace has for it; a case that still differs runs again.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

from memmodel.base.device import CPU, CUDA
from memmodel_validate.events import MemoryEvent, compared, live_peaks, program_events, with_unseen_frees
from memmodel_validate.ranks import decoders
from memmodel_validate.ranks.cases import RankCase

ATTEMPTS = 3


class RankResult(NamedTuple):
    """The events of a rank, and its peaks in the second step, in bytes; `difference` is empty where all are equal."""

    case: str
    rank: int
    events: int
    difference: str
    peak_bytes: int
    predicted_peak_bytes: int

    @property
    def equal(self) -> bool:
        """Whether every event is the same."""
        return not self.difference


class RanksFailedError(Exception):
    """A real run that gave no result: why, and the end of what it said."""


def compare(case: RankCase, timeout: float) -> list[RankResult]:
    """Run a case for real and by trace. Raises RanksFailedError for a real run that fails or hangs."""
    predicted = [_predicted(case, rank) for rank in range(case.ranks)]
    for _ in range(ATTEMPTS):
        measured = measure(case, timeout)
        results = [_result(case, rank, *both) for rank, both in enumerate(zip(measured, predicted, strict=True))]
        if all(result.equal for result in results):
            break
    return results


def _result(case: RankCase, rank: int, real: list[MemoryEvent], model: list[MemoryEvent]) -> RankResult:
    real = with_unseen_frees(real, model)
    kinds = ("alloc", "free")
    match = compared((e for e in real if e.kind in kinds), (e for e in model if e.kind in kinds))
    peaks = [live_peaks(events)["step 2"] for events in (real, model)]
    return RankResult(case.name, rank, match.measured, match.first_difference, *peaks)


def _predicted(case: RankCase, rank: int) -> list[MemoryEvent]:
    from memmodel.tracer.watch.watcher import Watcher
    from memmodel.tracer.watch.watching import watching
    from memmodel.tracer.watch.world import World, in_world
    from memmodel_validate.ranks import programs
    from memmodel_validate.ranks.process import STEPS, training

    if case.program in decoders.PROGRAMS:
        return decoders.recorded(case.program, case.ranks, rank, STEPS, programs.ON_GPU)

    watcher = Watcher(CUDA if programs.ON_GPU else CPU)
    watcher.device = watcher.device._replace(threads=1)  # of each process
    with in_world(World(case.ranks, rank), watcher), watching(watcher):
        kept = training(programs.named(case.program), watcher.mark)
        program = watcher.program
        watcher.close()
    # Held until the watcher was closed, so that nothing dies among the events.
    del kept
    return program_events(program)


def measure(case: RankCase, timeout: float) -> list[list[MemoryEvent]]:
    """The events of every rank of a real run, from its first mark on. Raises RanksFailedError."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{rank}.json" for rank in range(case.ranks)]
        log = Path(folder) / "log"
        with log.open("w") as said:
            processes = _started(case, files, said.fileno())
            try:
                why = _waited(processes, timeout)
            finally:
                _end(processes)
        if why:
            raise RanksFailedError(f"{case.name}: {why}; it said: {_last_line(log.read_text())}")
        return [_read(path) for path in files]


def _started(case: RankCase, files: Sequence[Path], said: int) -> "list[subprocess.Popen[bytes]]":
    # A port that is free now; the first rank binds it in a moment.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ, "WORLD_SIZE": str(case.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1",
        "MEMMODEL_PARENT": str(os.getpid()),
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "memmodel_validate.ranks.process", case.program]
    return [
        subprocess.Popen(
            [*command, str(path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        for rank, path in enumerate(files)
    ]


def _waited(processes: "Sequence[subprocess.Popen[bytes]]", timeout: float) -> str:
    """Why there is no result: a rank that fails, or none that ends in time. Empty when all have ended well."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        states = [process.poll() for process in processes]
        failed = [rank for rank, state in enumerate(states) if state]
        if failed:
            return f"rank {failed[0]} ended with status {states[failed[0]]}"
        if None not in states:
            return ""
        time.sleep(0.05)
    return f"no result within {timeout:g} s"


def _end(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("USDT:")]
    return lines[-1].strip()[:200] if lines else "nothing"


def _read(path: Path) -> list[MemoryEvent]:
    """The events from the first mark on, with storages numbered anew; those from before it have no free either."""
    events = [MemoryEvent(*event) for event in json.loads(path.read_text())]
    since = list(dropwhile(lambda event: event.kind != "inputs", events))
    first = min((event.storage for event in since if event.kind == "alloc"), default=0)
    return [e._replace(storage=max(e.storage - first, -1)) for e in since if e.storage >= first or e.storage < 0]

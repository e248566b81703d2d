"""One rank of a real run: `python -m memmodel_validate.ranks.process PROGRAM FILE`, with torchrun's variables set.

It trains two steps, and writes its allocator events to FILE: of PyTorch's CPU allocator over gloo, or of the CUDA
caching allocator over nccl where MEMMODEL_DEVICE is cuda.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from memmodel_validate.events import MemoryEvent, Position, entries, trace_events
from memmodel_validate.processes import end_with
from memmodel_validate.ranks.programs import ON_GPU

STEPS = ("step 1", "step 2")


def training(program: Callable[[], Callable[[], None]], mark: Callable[[str], None]) -> Any:
    """Build a program and run its steps, each a phase; what it returns keeps everything alive."""
    mark("inputs")
    step = program()
    for phase in STEPS:
        mark(phase)
        step()
    mark("after")
    return step


def main() -> None:
    """Run and write."""
    program, path = sys.argv[1:]
    end_with(int(os.environ["MEMMODEL_PARENT"]))  # ranks wait for one another: without it, for ever
    rank = int(os.environ["RANK"])
    found = _on_cuda(program, rank) if ON_GPU else _on_cpu(program, rank)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file)


def _on_cpu(program: str, rank: int) -> list[MemoryEvent]:
    from memmodel_validate.cpu_events import mark, profiled
    from memmodel_validate.ranks import programs
    from memmodel_validate.ranks.quiet import group

    torch.set_num_threads(1)
    kept: list[Any] = []
    with group(rank):
        return profiled(lambda: kept.append(training(programs.named(program), mark)))


def _on_cuda(program: str, rank: int) -> list[MemoryEvent]:
    import torch.distributed as dist

    from memmodel_validate.ranks import programs

    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    torch.cuda.memory._record_memory_history(max_entries=1_000_000)
    positions: list[Position] = []

    def mark(phase: str) -> None:
        positions.append(Position(phase, len(entries(torch.cuda.memory._snapshot(), rank))))

    kept = training(programs.named(program), mark)
    found = trace_events(entries(torch.cuda.memory._snapshot(), rank), positions)
    del kept
    dist.destroy_process_group()
    return found


if __name__ == "__main__":
    main()

"""The memory of the ranks of a layout, of those of one kind together."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from memmodel.allocator import AllocatorConfig
from memmodel.events.program import Program
from memmodel.gpus import Gpu
from memmodel.models.program import program_of
from memmodel.models.results import RankMemory
from memmodel.models.setting import ModelCase
from memmodel.prediction import Memory
from memmodel.step import memory_of


def memory_by_kind(
    case: ModelCase, gpu: Gpu, config: AllocatorConfig | None, recorded: Callable[[ModelCase], Program] = program_of
) -> tuple[RankMemory, ...]:
    """The memory of a rank of each kind, in the order of stages; none on one GPU. `recorded` records its program."""
    if case.layout.world == 1:
        return ()
    return tuple(_memory(replace(case, rank=rank), gpu, config, recorded) for rank in case.layout.kinds())


def _memory(
    case: ModelCase, gpu: Gpu, config: AllocatorConfig | None, recorded: Callable[[ModelCase], Program]
) -> RankMemory:
    layout, stage = case.layout, case.rank.stage
    title = f"stage {stage + 1} of {layout.pp}" if layout.pp > 1 else "all"
    memory = memory_of(recorded(case), case.torch, gpu, config)
    return RankMemory(title, case.rank, layout.world // layout.pp, memory)


def fullest(kinds: Iterable[RankMemory], case: ModelCase) -> tuple[ModelCase, Memory | None]:
    """The case of a rank of the kind that allocates most, and its memory; None on one GPU."""
    found = max(kinds, key=lambda kind: kind.memory.allocated_peak_bytes, default=None)
    return (case, None) if found is None else (replace(case, rank=found.rank), found.memory)

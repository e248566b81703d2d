"""The program of a model's step: recorded, with the formats of its weights and cache."""

from functools import lru_cache

from memmodel.events import liveness
from memmodel.events.program import Event, Launch, Mark, Program
from memmodel.expansion import Recording
from memmodel.models import record
from memmodel.models.megatron_history import with_history
from memmodel.models.packing import packed
from memmodel.models.setting import ModelCase
from memmodel.models.share import share
from memmodel.sizes.dims import Dim, Size


def program_of(case: ModelCase) -> Program:
    """The program of a step of the case's rank, in the steady state. Of many micro-batches, it holds two.

    The last few are remembered: memory, time and formulas ask for the same.
    """
    if isinstance(case.seq, int):
        return remembered(case, isinstance(case.seq, Size))  # a size with a letter equals its number
    return _program(case)


@lru_cache(maxsize=3)
def remembered(case: ModelCase, lettered: bool) -> Program:
    """The program of a case whose sizes are numbers, with letters or not."""
    return _program(case)


def _program(case: ModelCase) -> Program:
    if case.framework == "megatron":  # which shares by rules of its own
        return with_history(packed(record.record(case), case), case)
    mine = share(case)
    return packed(record.record(mine), mine)


def recording_of(case: ModelCase) -> Recording:
    """The recording of a training step of the case's rank, every layer of it run."""
    if case.framework != "megatron":
        return record.recording_of(share(case))
    found = record.recording_of(case)
    program = with_history(found.program, case)
    return found.later(program, len(program.events) - len(found.program.events))


def memory_program(case: ModelCase) -> Program:
    """The program of `program_of` for its allocations alone, at half the cost: not all work is in it."""
    if case.framework == "megatron":
        return program_of(case)
    mine = share(case)
    return packed(record.record_memory(mine), mine)


def moments(case: ModelCase, scratch: bool = True) -> list[Dim]:
    """Live bytes where they can be the peak of a step of the case's rank, often at less cost than its program.

    `scratch`: whether that of reductions is counted too.
    """
    if case.framework == "megatron" or case.phase != "train":  # what is recorded is changed afterwards
        return liveness.moments(program_of(case), scratch)
    return record.moments(share(case), scratch)


def live_peak(case: ModelCase) -> int:
    """The most live bytes of a step of the case's rank, as `summary` of its program."""
    return int(max(moments(case)))


def kernels_of(program: Program, micro_batches: int) -> Program:
    """The kernels of a whole step, a phase each, from the program of a step that holds at most two micro-batches.

    The second of them adds to the gradients of the first, and so do all that follow.
    """
    runs: dict[str, list[list[Launch]]] = {}  # phase -> the kernels of each time that it runs
    for event in program.events:
        if isinstance(event, Mark):
            current: list[Launch] = []
            runs.setdefault(event.phase, []).append(current)
        elif isinstance(event, Launch):
            current.append(event)
    events: list[Event] = []
    for phase, (first, *later) in runs.items():
        again = later[-1] if later else []
        events += [Mark(phase), *first, *(micro_batches - 1) * again]
    return program._replace(events=events)

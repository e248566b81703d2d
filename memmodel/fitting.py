"""What a recorded step takes of a GPU's memory, and whether it fits."""

from collections.abc import Iterable

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.case import Case
from memmodel.cublas import workspace
from memmodel.gpus import Gpu
from memmodel.prediction import Memory
from memmodel.program import Program
from memmodel.replay import Replay, Usage, replay, replay_by_event
from memmodel.timeline import phase_peaks, saved_bytes

STEPS = 3  # the first two fill the allocator's cache, the third is read


def memory(program: Program, case: Case, gpu: Gpu, config: AllocatorConfig | None = None) -> Memory:
    """The memory of a recorded case on a GPU.

    Allocator figures are those of a run with the GPU's memory; where that runs out, of one with endless memory: what
    the step would need.
    """
    scratch = workspace(case.torch, gpu.compute_capability)
    result, fitting = _replayed(program, case, gpu, config)
    usages = _of_step(result)
    threads = {launch.thread for launch in program.launches() if launch.cublas}
    peaks = phase_peaks(program)
    return Memory(
        live_peak_bytes=int(peaks["peak"]),
        allocated_peak_bytes=max(usage.allocated_peak for usage in usages),
        reserved_peak_bytes=max(usage.reserved_peak for usage in usages),
        saved_bytes=int(saved_bytes(program)),
        workspace_bytes=scratch.nbytes * (1 if scratch.per_call else len(threads)),
        phase_peaks={name: int(peaks[name]) for name in ("forward", "backward") if name in peaks},
        context_bytes=gpu.context_bytes,
        capacity_bytes=_capacity(gpu),
        fits=fitting,
    )


def fits(program: Program, case: Case, gpu: Gpu, config: AllocatorConfig | None = None) -> bool | None:
    """Whether the allocator gets through the program with the GPU's memory less the context's; None if not known."""
    room = room_bytes(gpu)
    if room is None:
        return None
    return _run(program, case, gpu, CachingAllocator(room, config)).out_of_memory is None


def room_bytes(gpu: Gpu) -> int | None:
    """What is left to the allocator: capacity less the highest context seen on this GPU (nothing, where not known)."""
    capacity = _capacity(gpu)
    if capacity is None:
        return None
    return capacity - (gpu.context_bytes[1] if gpu.context_bytes else 0)


def _capacity(gpu: Gpu) -> int | None:
    return gpu.capacity_bytes if "capacity" in gpu.values else None


def _run(program: Program, case: Case, gpu: Gpu, allocator: CachingAllocator) -> Replay:
    return replay(program, allocator, workspace(case.torch, gpu.compute_capability), STEPS)


def _replayed(program: Program, case: Case, gpu: Gpu, config: AllocatorConfig | None) -> tuple[Replay, bool | None]:
    """The replay to read, and whether it fits: that with the GPU's memory, or with endless memory where that is out."""
    room = room_bytes(gpu)
    if room is not None:
        limited = _run(program, case, gpu, CachingAllocator(room, config))
        if limited.out_of_memory is None:
            return limited, True
    return _run(program, case, gpu, CachingAllocator(config=config)), None if room is None else False


def usage_by_event(
    program: Program, torch: str, gpu: Gpu, memory: Memory, config: AllocatorConfig | None = None, steps: int = STEPS
) -> list[tuple[int, int]]:
    """(allocated, reserved) bytes at each event of the step that `memory` describes, from the "forward" mark on.

    `torch` is its version; the last of so many `steps` is read: 1 for a program that holds several.
    """
    allocator = CachingAllocator(room_bytes(gpu) if memory.fits else None, config)
    return replay_by_event(program, allocator, workspace(torch, gpu.compute_capability), steps)


def _of_step(result: Replay) -> Iterable[Usage]:
    names = {name for name, _ in result.phases}
    return [result.last(phase) for phase in ("forward", "backward") if phase in names]

"""What a traced step takes of a GPU's memory, how long it takes, and the largest size that fits."""

from collections.abc import Callable
from typing import NamedTuple

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.cublas import parse_torch_version, workspace
from memmodel.fitting import room_bytes
from memmodel.gpus import Gpu
from memmodel.prediction import Memory, Time
from memmodel.program import Alloc, Free, Launch, Mark, Program
from memmodel.replay import Replay, replay
from memmodel.timeline import phase_peaks, saved_bytes
from memmodel.timing import Calibration, Machine, kernel_times, share_by_ceiling, step_seconds

STEPS = 3  # the first two fill the allocator's cache, the third is read
_NO_STEP = ("start", "inputs", "after")


def is_closed(program: Program) -> bool:
    """Whether a step leaves nothing behind and takes nothing away: only then its events can repeat as they are."""
    first = next(i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward")
    born = {e.key for e in program.events[first:] if isinstance(e, Alloc)}
    return born == {e.key for e in program.events[first:] if isinstance(e, Free)}


def runs_of(program: Program) -> int:
    """How often the program is run so that the last is steady; once where it holds several steps already."""
    return STEPS if is_closed(program) else 1


def step_phases(program: Program) -> list[str]:
    """The phases of the step itself."""
    return [name for name in program.phases() if name not in _NO_STEP]


def live_peak(program: Program) -> int:
    """The most bytes alive at once in the last step."""
    peaks = phase_peaks(program)
    return max(int(peaks[name]) for name in step_phases(program))


def _run(program: Program, gpu: Gpu, torch: str, allocator: CachingAllocator) -> Replay:
    return replay(program, allocator, workspace(torch, gpu.compute_capability), runs_of(program))


def fits(program: Program, gpu: Gpu, torch: str, config: AllocatorConfig | None = None) -> bool | None:
    """Whether the allocator gets through the steps with the GPU's memory; None where that is not known."""
    room = room_bytes(gpu)
    if room is None:
        return None
    return _run(program, gpu, torch, CachingAllocator(room, config)).out_of_memory is None


def memory_of(program: Program, gpu: Gpu, torch: str, config: AllocatorConfig | None = None) -> Memory:
    """The memory of the traced steps on a GPU; where it runs out, what endless memory would have held."""
    scratch = workspace(torch, gpu.compute_capability)
    result = _run(program, gpu, torch, CachingAllocator(config=config))
    fitting = fits(program, gpu, torch, config)
    room = room_bytes(gpu)
    if fitting and room is not None and max(usage.reserved_peak for _, usage in result.phases) > room:
        result = _run(program, gpu, torch, CachingAllocator(room, config))
    usages = [result.last(name) for name in step_phases(program)]
    threads = {launch.thread for launch in program.launches() if launch.cublas}
    peaks = phase_peaks(program)
    return Memory(
        live_peak_bytes=live_peak(program),
        allocated_peak_bytes=max(usage.allocated_peak for usage in usages),
        reserved_peak_bytes=max(usage.reserved_peak for usage in usages),
        saved_bytes=int(saved_bytes(program)),
        workspace_bytes=scratch.nbytes * (1 if scratch.per_call else len(threads)),
        phase_peaks={name: int(peaks[name]) for name in step_phases(program)},
        context_bytes=gpu.context_bytes,
        capacity_bytes=gpu.capacity_bytes if "capacity" in gpu.values else None,
        fits=fitting,
    )


def time_of(program: Program, gpu: Gpu, torch: str, calibration: Calibration | None = None) -> Time:
    """The time of the last step's kernels. Raises UsageError where the GPU's data lack a rate."""
    machine = Machine(gpu, calibration, torch=parse_torch_version(torch))
    phases = program.phases()
    timed = {
        name: kernel_times((e for e in phases[name] if isinstance(e, Launch)), machine) for name in step_phases(program)
    }
    seconds = {name: step_seconds(name, part, machine) for name, part in timed.items()}
    kernels = tuple(kernel for part in timed.values() for kernel in part)
    shares = share_by_ceiling(kernels)
    waiting = sum(seconds.values()) - sum(kernel.seconds for kernel in kernels)
    if waiting > 1e-12:
        shares = dict(sorted({**shares, "dispatch": waiting}.items(), key=lambda item: -item[1]))
    name = calibration.name if calibration else "datasheet"
    binding = next(iter(shares), "nothing")
    return Time(sum(seconds.values()), seconds, binding, shares, kernels, machine.basis, name)


class Largest(NamedTuple):
    """The largest value of a letter that fits, and the next, which does not; 0 where none does, None where all do."""

    over: str
    largest: int
    first_failing: int | None


def largest(over: str, runs: Callable[[int], bool], step: int, end: int) -> Largest:
    """Search the multiples of `step` up to `end`; both sides of the answer are run."""
    from memmodel.thresholds import last_true

    count = last_true(lambda n: runs(n * step), end // step)
    return Largest(over, count * step, None if count >= end // step else (count + 1) * step)

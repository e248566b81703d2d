"""A step of a program on a GPU: its memory, whether it fits, and the time of its kernels.

Programs come from recording tensors and from the tracer alike.
"""

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.allocator.cublas import workspace
from memmodel.attention.case import Case
from memmodel.attention.tiles import FAMILY
from memmodel.base.device import CUDA, Device
from memmodel.base.errors import UsageError
from memmodel.base.units import seconds_text
from memmodel.events.groups import groups_at_peak
from memmodel.events.liveness import Summary, saved_bytes, states, step_phases, summary
from memmodel.events.program import COLLECTIVE, Launch, Program
from memmodel.events.replay import Replay, replay, replay_by_event
from memmodel.gpus import Gpu
from memmodel.prediction import Memory, Time, room_of
from memmodel.timing import Machine, kernel_times, share_by_ceiling, step_interval, step_seconds
from memmodel.timing.intervals import factor_of, is_compiled, kind_of, origin_of
from memmodel.timing.terms import exp_known
from memmodel.timing.transfer import relation_of

STEPS = 3  # the first two fill the allocator's cache, the third is reported


def device_of(gpu: Gpu) -> Device:
    """CUDA on this GPU: its tiles, compute capability and SMs; an A100's if not known, and so on AMD."""
    major, minor = gpu.compute_capability or (0, 0)
    arch = 10 * major + minor
    if not arch:
        return CUDA._replace(gfx=(gpu.arch or "an unnamed architecture") if gpu.vendor == "AMD" else "")
    sms = gpu.sm_count if "sm_count" in gpu.values else CUDA.sms
    return CUDA._replace(sms=sms, arch=arch if arch in FAMILY else CUDA.arch, capability=arch)


def other_kernels(gpu: Gpu) -> str:
    """A note where the libraries' attention kernels are not those of NVIDIA's GPUs; "" where they are."""
    if gpu.compute_capability is not None:
        return ""
    if gpu.vendor == "AMD":
        # sdp_utils.cpp, check_flash_attention_hardware_support: composable kernel's (CK) where they are asked for.
        kernels = f"PyTorch's flash and efficient kernels for {gpu.name} are AOTriton's"
        return f"{kernels}: which one is taken follows their limits, the figures are those of NVIDIA's on an A100"
    return f"PyTorch's attention kernels for {gpu.name} are not modelled: choice and figures are an A100's"


def memory_of(program: Program, torch: str, gpu: Gpu, config: AllocatorConfig | None = None) -> Memory:
    """The memory of a program's last step on a GPU.

    Allocator figures are those of a run with the GPU's memory; where that runs out, of one with endless memory: what
    the step would need. `torch` is the version whose cuBLAS workspaces are taken.
    """
    scratch, read, phases = workspace(torch, gpu.compute_capability, gpu.arch), summary(program), step_phases(program)
    result, fitting = _replayed(program, read, torch, gpu, config)
    usages = [result.last(phase) for phase in phases]
    by_name = {each[0]: each for launch in program.launches() if launch.cublas for each in scratch.taken(launch)}
    taken = list(by_name.values())
    return Memory(
        live_peak_bytes=int(read.peaks["peak"]),
        allocated_peak_bytes=max(usage.allocated_peak for usage in usages),
        reserved_peak_bytes=max(usage.reserved_peak for usage in usages),
        saved_bytes=int(saved_bytes(program)),
        workspace_bytes=sum(nbytes for _, nbytes, once in taken if not once)
        + max((nbytes for _, nbytes, once in taken if once), default=0),
        phase_peaks={phase: int(read.peaks[phase]) for phase in phases},
        context_bytes=gpu.context_bytes,
        capacity_bytes=_capacity(gpu),
        fits=fitting,
        groups=groups_at_peak(program, int(read.peaks["peak"])),
    )


def allocated_peak(
    program: Program, torch: str, gpu: Gpu, config: AllocatorConfig | None = None, read: Summary | None = None
) -> tuple[int, bool | None]:
    """Allocated bytes at the peak and whether the step fits, as in `memory_of`, without the rest of it.

    `read`: the program's summary, where it is known.
    """
    result, fitting = _replayed(program, read or summary(program), torch, gpu, config)
    return max(result.last(phase).allocated_peak for phase in step_phases(program)), fitting


def fits(program: Program, torch: str, gpu: Gpu, config: AllocatorConfig | None = None) -> bool | None:
    """Whether a program runs in the room of a GPU; None if its capacity is not known."""
    room = room_bytes(gpu)
    if room is None:
        return None
    read = summary(program)
    if read.peaks["peak"] > room:
        return False  # the allocator only adds to live bytes: no replay needed
    return _run(program, read.closed, torch, gpu, CachingAllocator(room, config)).out_of_memory is None


def room_bytes(gpu: Gpu) -> int | None:
    """The bytes that a GPU leaves to the allocator; None if its capacity is not known."""
    return room_of(_capacity(gpu), gpu.context_bytes)


def _capacity(gpu: Gpu) -> int | None:
    return gpu.capacity_bytes if "capacity" in gpu.values else None


def _run(program: Program, closed: bool, torch: str, gpu: Gpu, allocator: CachingAllocator) -> Replay:
    """A replay whose last step is steady; a program that already holds several steps runs once."""
    return replay(program, allocator, workspace(torch, gpu.compute_capability, gpu.arch), STEPS if closed else 1)


def _replayed(
    program: Program, read: Summary, torch: str, gpu: Gpu, config: AllocatorConfig | None
) -> tuple[Replay, bool | None]:
    """The replay to report, in the GPU's memory or, if that runs out, in unlimited memory; and whether it fits."""
    room = room_bytes(gpu)
    if room is not None and read.peaks["peak"] <= room:  # the allocator only adds to live bytes
        limited = _run(program, read.closed, torch, gpu, CachingAllocator(room, config))
        if limited.out_of_memory is None:
            return limited, True
    return _run(program, read.closed, torch, gpu, CachingAllocator(config=config)), None if room is None else False


def timing_bytes(program: Program, gpu: Gpu) -> int:
    """The most bytes that are alive while torch.compile times its kernels, in the first call. Needs the GPU's L2.

    Kernels of several configurations run with a buffer of the size of L2, which clears it, and with a copy of what they
    write in place: of the largest tensor alive, at most (torch/_inductor/runtime, `benchmarking.py` and
    `triton_heuristics.py`).
    """
    at_kernels = (now for now in states(program) if isinstance(now.event, Launch) and now.event.kind == "fused")
    return gpu.l2_bytes + max(
        int(now.live) + max(int(storage.nbytes) for storage in now.alive.values()) for now in at_kernels
    )


def usage_by_event(
    program: Program, torch: str, gpu: Gpu, memory: Memory, config: AllocatorConfig | None = None
) -> list[tuple[int, int]]:
    """(allocated, reserved) bytes at each event of the step that `memory` describes, from the "forward" mark on."""
    allocator = CachingAllocator(room_bytes(gpu) if memory.fits else None, config)
    return replay_by_event(
        program, allocator, workspace(torch, gpu.compute_capability, gpu.arch), STEPS if summary(program).closed else 1
    )


def time_of(program: Program, machine: Machine) -> Time:
    """The time of a program's last step without its collectives. Raises UsageError if the GPU's data lack a rate."""
    phases, compiled = program.phases(), is_compiled(program.launches())
    timed = {
        name: kernel_times((e for e in phases[name] if isinstance(e, Launch) and e.kind != COLLECTIVE), machine)
        for name in step_phases(program)
    }
    seconds: dict[str, float] = {name: step_seconds(name, part, machine, compiled) for name, part in timed.items()}
    kernels = tuple(kernel for part in timed.values() for kernel in part)
    shares = share_by_ceiling(kernels)
    waiting = sum(seconds.values()) - sum(kernel.seconds for kernel in kernels)
    if waiting > 1e-12:
        shares = dict(sorted({**shares, "dispatch": waiting}.items(), key=lambda item: -item[1]))
    calibration = machine.calibration
    name = "datasheet" if calibration is None else calibration.name
    found = Time(sum(seconds.values()), seconds, next(iter(shares), "nothing"), shares, kernels, machine.basis, name)
    if calibration is None:
        return found
    kind, origin = kind_of(program.launches()), origin_of(kernels)
    ends = [
        step_interval(phase, part, machine, factor_of(kind, origin, sum(kernel.seconds for kernel in part)), compiled)
        for phase, part in timed.items()
    ]
    return found._replace(low=sum(low for low, _ in ends), high=sum(high for _, high in ends))


def transferred(time: Time) -> list[str]:
    """A note on the rates of an expected time that were measured on other GPUs, where the rest is the GPU's own."""
    found: dict[str, set[str]] = {}
    for kernel in time.kernels:
        if relation_of(kernel.binding.source) != "measured":
            words = kernel.binding.source.partition("transferred from ")[2].partition(", ")[0]
            found.setdefault(words, set()).add(kernel.name)
    if time.basis == "transferred":
        return []
    return [f"time, expected: rates of {', '.join(sorted(names))} are those of {gpu}" for gpu, names in found.items()]


def served_time(case: Case, gpu: Gpu, kernel: str | None = None) -> tuple[Time, list[str]]:
    """The time to expect of a case in a serving stack, by the GPU's default kernel or a named one, and notes on it.

    Raises UsageError for an unknown kernel, and for a GPU whose data lack a value that it needs.
    """
    from memmodel.timing.serving.call import serving_call  # here because few commands time kernels of serving stacks

    call = serving_call(case, gpu, kernel)
    shares, found = share_by_ceiling([call.time]), call.kernel
    basis = "community" if found.relation == "measured" else "transferred"
    seconds = call.time.seconds
    time = Time(
        seconds,
        {"forward": seconds},
        next(iter(shares)),
        shares,
        (call.time,),
        basis,
        found.origin,
        call.low,
        call.high,
    )
    return time, [
        f"time, expected: a {call.phase} call, {found.origin}",
        *call.notes,
        *_by_others(case, gpu, found.name),
    ]


def _by_others(case: Case, gpu: Gpu, taken: str) -> list[str]:
    """A note on what other serving kernels take for the same case."""
    from memmodel.timing.serving.call import serving_call
    from memmodel.timing.serving.kernels import kernel_names

    others = [name for name in kernel_names(gpu) if name != taken]
    times = [f"{name} {seconds_text(serving_call(case, gpu, name).time.seconds)}" for name in others]
    return [f"other serving kernels (--kernel): {', '.join(times)}"] if times else []


def time_or_why(program: Program, machine: Machine, bound: Time | None = None) -> tuple[Time | None, list[str]]:
    """The time of a program's last step, not below the bound (None if the GPU's data lack a rate), and notes on it."""
    try:
        time = time_of(program, machine)
    except UsageError as missing:
        return None, [f"no time: {missing}"]
    without_exp = exp_known(machine) or not any(launch.work.exp for launch in program.launches())
    time = time if bound is None else time.at_least(bound.seconds)
    return time, [] if without_exp else [f"the exp ceiling is left out: {machine.gpu.name} has no known exp rate"]

"""Recorded times, and the time model's prediction for them: a run's program on its GPU, calibrated or by datasheet."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from memmodel.allocator.cublas import parse_torch_version
from memmodel.base.errors import UsageError
from memmodel.events.program import Launch, Program
from memmodel.gpus import Gpu, load_gpu
from memmodel.timing import Calibration, KernelTime, Machine, kernel_times, step_interval, step_seconds
from memmodel.timing.host import NO_HOST
from memmodel.timing.intervals import kind_of, origin_of
from memmodel_evidence.calibrations import published_products
from memmodel_evidence.graphs import compiled_for
from memmodel_evidence.programs import compiled, launches, program_of
from memmodel_validate.ledger import Run, Source

# A time quantity, or the rate that stands for it: the phases that it holds, and its FLOP in forwards of attention.
PHASES: dict[str, tuple[tuple[str, ...], float]] = {
    "forward": (("forward",), 1.0),
    "backward": (("backward",), 2.5),
    "step": (("forward", "backward"), 3.5),
}
Factors = Callable[[str, str, float], float]
Known = dict[Launch, KernelTime]  # of one machine
ANY_GPU = Gpu(id="", name="not stated", vendor="", arch="", compute_capability=None, values={})


class Timed(NamedTuple):
    """A time of a run: which phase, and the measured seconds."""

    run: Run
    phase: str
    seconds: float


def times(run: Run) -> Iterator[Timed]:
    """The measured times of a run; a rate counts where no time was printed, by the FLOP that its source counts."""
    for phase, (_, forwards) in PHASES.items():
        time, rate = run.measured.get(f"{phase}_time"), run.measured.get(f"{phase}_rate")
        if time is not None:
            yield Timed(run, phase, time.value)
        elif rate is not None and {"batch", "heads", "seq", "head_dim", "mask"} <= run.case.keys():
            yield Timed(run, phase, forwards * counted_flops(run) / rate.value)


def counted_flops(run: Run) -> float:
    """FLOP of one forward as FlashAttention's authors count them: 4 b h n m d, half of it under a causal mask."""
    case = run.case
    pairs = case["seq"] * case.get("kv_seq", case["seq"]) * (0.5 if case["mask"] == "causal" else 1.0)
    return float(4 * case["batch"] * case["heads"] * case["head_dim"] * pairs)


def gpu_of(source: Source) -> Gpu:
    """The source's GPU, or one without values where it is not known."""
    return load_gpu(source.gpu_id) if source.gpu_id else ANY_GPU


def at_clock(gpu: Gpu, clock: float) -> Gpu:
    """A GPU whose tensor cores run at another clock, in Hz, than that of their listed peaks."""
    faster = clock / gpu.tensor_clock
    scaled = {
        name: listed._replace(value=listed.value * faster)
        for name, listed in gpu.values.items()
        if name == "tensor_clock" or name.startswith("tensor.")
    }
    return replace(gpu, values={**gpu.values, **scaled})


class Part(NamedTuple):
    """The kernels of a phase in a recorded time, and how many times they are in it."""

    phase: str
    times: float
    launches: list[Launch]
    kernels: tuple[KernelTime, ...]
    compiled: bool


@cache
def known(*machine: object) -> Known:
    """The kernels' times so far on a machine, by what tells it from others: tables run the same attention."""
    return {}


def parts_of(program: Program, phase: str, source: Source, machine: Machine, known: Known | None = None) -> list[Part]:
    """What a source's time of a phase holds.

    A source may time the forward with its backward. One that does not wait for its warm-up has that in its first
    forward, and so a share of it in the mean. Raises UsageError where the GPU's data or its rates lack a value.
    """
    found, fused = [], compiled(program)
    for part, times in held(phase, source).items():
        of_part = launches(program, (part,))
        found.append(Part(part, times, of_part, kernel_times(of_part, machine, known), fused))
    return found


def seconds_of(parts: Iterable[Part], machine: Machine) -> float:
    """The seconds that the model expects of them."""
    return sum(part.times * step_seconds(part.phase, part.kernels, machine, part.compiled) for part in parts)


def predicted_seconds(
    program: Program, phase: str, source: Source, machine: Machine, known: Known | None = None
) -> float:
    """The seconds of a phase of a program as its source times it."""
    return seconds_of(parts_of(program, phase, source, machine, known), machine)


def interval_of(parts: Iterable[Part], machine: Machine, factors: Factors) -> tuple[float, float]:
    """The ends of `seconds_of`, for a factor by kind of program, origin of its rates and its kernels' time."""
    ends = [0.0, 0.0]
    for part in parts:
        kernels = part.kernels
        factor = factors(kind_of(part.launches), origin_of(kernels), sum(kernel.seconds for kernel in kernels))
        of_part = step_interval(part.phase, kernels, machine, factor, part.compiled)
        ends = [end + part.times * more for end, more in zip(ends, of_part, strict=True)]
    return ends[0], ends[1]


def roofline_error(timed: Timed, source: Source) -> float | None:
    """The error of the datasheet's roofline; None where the GPU or one of its rates is not known."""
    program, machine = program_of(timed.run, source), machine_of(source, None)
    key = id(program), timed.phase, tuple(held(timed.phase, source).items()), machine.gpu.id, machine.tf32
    if key not in _rooflines:
        try:
            listed = known(machine.gpu.id, machine.tf32, machine.torch)
            _rooflines[key] = predicted_seconds(program, timed.phase, source, machine, listed)
        except UsageError:
            _rooflines[key] = None
    least = _rooflines[key]
    return None if least is None else abs(least / timed.seconds - 1)


_rooflines: dict[tuple[Any, ...], float | None] = {}  # many tables ran the same program on the same GPU


def held(phase: str, source: Source) -> dict[str, float]:
    """The phases that a source's time of a phase holds, and how many times each."""
    held = dict.fromkeys(PHASES[phase][0], 1.0)
    if phase == "backward" and source.protocol.get("backward_time") == "forward and backward":
        held["forward"] = 1.0
    if phase == "forward":
        for part in ("forward", "backward"):
            held[part] = held.get(part, 0.0) + float(source.protocol.get(f"queued_{part}s", 0))
    return {part: times for part, times in held.items() if times}


def machine_of(source: Source, calibration: Calibration | None) -> Machine:
    """The source's GPU with a calibration; matrix products in TF32 where its script turned that on.

    A kernel's constants hold on any GPU; that GPU's own best products go with them, and both at the clock that the
    source states. Without a calibration it is the datasheet's GPU.
    """
    gpu, tf32 = gpu_of(source), source.protocol.get("fp32_products") == "tf32"
    host = None if calibration is None or "dispatch" in calibration.constants else (NO_HOST,) * 3
    if calibration is None or not source.gpu_id:
        return Machine(gpu, calibration, tf32, _version(source), host)
    products, stated = published_products(source.gpu_id), source.protocol.get("clock_MHz")
    if stated is not None:
        gpu, listed = at_clock(gpu, float(stated) * 1e6), gpu
        faster = gpu.tensor_clock / listed.tensor_clock
        products = {name: of._replace(value=of.at(0.0) * faster) for name, of in products.items()}
    constants = {**products, **calibration.constants}
    return Machine(gpu, calibration._replace(constants=constants), tf32, _version(source), host)


def machine_as_seen(run: Run, source: Source, calibration: Calibration) -> Machine:
    """The source's GPU as `predict` has it: with its rates, and whatever host; compiled code as the script got it."""
    tf32 = source.protocol.get("fp32_products") == "tf32"
    return Machine(gpu_of(source), calibration, tf32, _version(source), None, compiled_for(run, source))


def _version(source: Source) -> tuple[int, int]:
    """The source's torch; published figures without one are from 2024 or before."""
    stated = source.environment.get("torch")
    return _parsed(stated) if stated else (2, 4)


_parsed = cache(parse_torch_version)

"""Recorded times, and the time model's prediction for them: a run's program on its GPU, calibrated or by datasheet."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from memmodel.cublas import parse_torch_version
from memmodel.gpus import Gpu, load_gpu
from memmodel.program import Program
from memmodel.timing import Calibration, Machine, kernel_times, step_interval, step_seconds
from memmodel.timing.host import NO_HOST
from memmodel.timing.intervals import is_compiled, kind_of, origin_of
from memmodel_evidence.calibrations import published_products
from memmodel_evidence.programs import launches
from memmodel_validate.ledger import Run, Source

# A time quantity, or the rate that stands for it: the phases that it holds, and its FLOP in forwards of attention.
PHASES: dict[str, tuple[tuple[str, ...], float]] = {
    "forward": (("forward",), 1.0),
    "backward": (("backward",), 2.5),
    "step": (("forward", "backward"), 3.5),
}
Factors = Callable[[str, str, float], tuple[float, float]]
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


def predicted_seconds(program: Program, phase: str, source: Source, machine: Machine) -> float:
    """Predict the seconds of a phase of a program as its source times it.

    A source may time the forward with its backward. One that does not wait for its warm-up has that in its first
    forward, and so a share of it in the mean.
    """
    compiled = is_compiled(program.launches())
    return sum(
        times * step_seconds(part, kernel_times(launches(program, (part,)), machine), machine, compiled)
        for part, times in _held(phase, source).items()
    )


def interval_of(
    program: Program, phase: str, source: Source, machine: Machine, factors: Factors
) -> tuple[float, float]:
    """The ends of `predicted_seconds`, for factors by kind of program, origin of its rates and its kernels' time."""
    ends = [0.0, 0.0]
    for part, times in _held(phase, source).items():
        of_part = launches(program, (part,))
        kernels = kernel_times(of_part, machine)
        of_both = factors(kind_of(of_part), origin_of(kernels), sum(kernel.seconds for kernel in kernels))
        part_ends = step_interval(part, kernels, machine, of_both, is_compiled(of_part))
        ends = [end + times * more for end, more in zip(ends, part_ends, strict=True)]
    return ends[0], ends[1]


def _held(phase: str, source: Source) -> dict[str, float]:
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


def machine_as_seen(source: Source, calibration: Calibration) -> Machine:
    """The source's GPU as `predict` has it: with its rates, and whatever host."""
    return Machine(gpu_of(source), calibration, source.protocol.get("fp32_products") == "tf32", _version(source))


def _version(source: Source) -> tuple[int, int]:
    """The source's torch; published figures without one are from 2024 or before."""
    stated = source.environment.get("torch")
    return parse_torch_version(stated) if stated else (2, 4)

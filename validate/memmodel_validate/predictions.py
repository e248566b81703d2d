"""Predictions of trials: memory, allocator events, times, and whether they fit. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from memmodel.algorithms import algorithm
from memmodel.allocator import CachingAllocator
from memmodel.allocator.cublas import parse_torch_version, workspace
from memmodel.attention.case import Case
from memmodel.base.dtypes import short_name
from memmodel.base.errors import UsageError
from memmodel.cases import on_gpu
from memmodel.events.liveness import phase_peaks, saved_bytes
from memmodel.events.program import Program
from memmodel.events.replay import replay
from memmodel.gpus import Gpu, Value, load_gpu
from memmodel.recorder import record
from memmodel.recording import CPU, CUDA
from memmodel.step import STEPS, fits, time_of
from memmodel.thresholds import threshold
from memmodel.timing import Calibration, Machine
from memmodel_validate.cpu import cpu, with_cpu_blocks
from memmodel_validate.events import MemoryEvent, live_peaks, program_events
from memmodel_validate.suite import GRID, PROGRAMS, TIME_PROGRAMS, Trial

_PHASES = {"forward": "fwd", "backward": "bwd"}
NO_CALIBRATION = "no calibration of this machine: run `memmodel calibrate`"


@dataclass(frozen=True, slots=True)
class TrialPrediction:
    """The prediction of a trial, by the ledger's quantities.

    Attributes:
        memory: quantity -> bytes; empty where the kernel is a library's own. events: of the run.
        times: quantity -> seconds; empty where they cannot be predicted: `no_time` says why. binding: the ceiling that
            takes most of the step's time.
        fits: whether it runs; None where that is not known. context: lowest and highest bytes seen on this GPU.
        boundary: (largest, first failing) sequence, for a search.
    """

    memory: Mapping[str, int]
    events: tuple[MemoryEvent, ...] | None = None
    times: Mapping[str, float] | None = None
    binding: str = ""
    no_time: str = ""
    fits: bool | None = None
    context: tuple[int, int] | None = None
    boundary: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that predictions are made for: "cpu" or "cuda", its GPU, the version of torch, its rates if known."""

    device: str
    gpu: Gpu
    torch: str
    calibration: Calibration | None = None

    @property
    def machine(self) -> Machine:
        """For the time model."""
        return Machine(self.gpu, self.calibration, torch=parse_torch_version(self.torch))


def target(environment: Mapping[str, str], calibration: Calibration | None, total: int | None = None) -> Target:
    """The target of an environment; `total` is the GPU's memory as torch reports it, in bytes."""
    if environment["gpu_id"] == "cpu":
        return Target("cpu", cpu(), environment["torch"], calibration)
    name, text = environment["gpu"], environment["compute_capability"]
    gpu = load_gpu(environment["gpu_id"]) if environment["gpu_id"] else Gpu("", name, "NVIDIA", "", None, {})
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise UsageError(f"the compute capability of {name} is {text!r}, expected one such as 9.0")
    # What fits is asked of this GPU, not of its datasheet.
    read = {} if total is None else {"capacity": Value(total, "torch.cuda.mem_get_info")}
    found = replace(gpu, compute_capability=(int(major), int(minor)), values={**gpu.values, **read})
    return Target("cuda", found, environment["torch"], calibration)


def predict_trial(trial: Trial, of: Target) -> TrialPrediction:
    """The prediction of a trial."""
    case = _case(trial, of)
    if trial.cap is not None:
        return TrialPrediction({}, boundary=_boundary(case, of.gpu, trial.cap))
    if trial.implementation not in TIME_PROGRAMS:
        return TrialPrediction({}, no_time="not modelled")
    if of.device == "cpu" and algorithm(case.algorithm).tiled:
        case = with_cpu_blocks(case)
    program = record(case, device=CPU if of.device == "cpu" else CUDA)
    timed = _times(program, case, of)
    if trial.implementation not in PROGRAMS:
        return TrialPrediction({}, **timed)
    if of.device == "cpu":
        return TrialPrediction(_live(program), tuple(program_events(program)), **timed)
    scratch = workspace(case.torch, of.gpu.compute_capability)
    events = tuple(program_events(program, scratch, STEPS))
    memory = _on_allocator(program, case, of.gpu)
    return TrialPrediction(
        memory, events, fits=fits(program, case.torch, of.gpu), context=of.gpu.context_bytes, **timed
    )


def needed_bytes(trial: Trial, of: Target) -> int:
    """Estimate the peak of live bytes of a trial; a library's kernel counts as naive attention, which takes more."""
    case = _case(trial, of)
    return int(phase_peaks(record(case, device=CPU if of.device == "cpu" else CUDA))["peak"])


def _case(trial: Trial, of: Target) -> Case:
    return on_gpu([replace(trial.case, torch=of.torch)], of.gpu)[0]


def _live(program: Program) -> dict[str, int]:
    peaks = phase_peaks(program)
    live = {f"live_peak_{short}": int(peaks[phase]) for phase, short in _PHASES.items() if phase in peaks}
    return {"saved": int(saved_bytes(program)), **live}


def _on_allocator(program: Program, case: Case, gpu: Gpu) -> dict[str, int]:
    """Saved bytes, and peaks by phase: requested, allocated and reserved, cuBLAS workspaces in all three."""
    scratch = workspace(case.torch, gpu.compute_capability)
    usage = replay(program, CachingAllocator(), scratch, STEPS)
    requested = live_peaks(program_events(program, scratch, STEPS))
    found = {"saved": int(saved_bytes(program))}
    for phase, short in _PHASES.items():
        if phase in requested:
            last = usage.last(phase)
            found[f"live_peak_{short}"] = requested[phase]
            found[f"peak_{short}"] = last.allocated_peak
            found[f"reserved_peak_{short}"] = last.reserved_peak
    return found


def _times(program: Program, case: Case, of: Target) -> dict[str, Any]:
    """Times and the binding ceiling, or why there are none."""
    if of.device == "cpu" and of.calibration is None:
        return {"no_time": NO_CALIBRATION}
    try:
        time = time_of(program, of.machine)
    except UsageError as missing:
        return {"no_time": _lacking(case) if of.device == "cpu" else str(missing)}
    return {"times": {f"{phase}_time": s for phase, s in time.phases.items()}, "binding": time.binding}


def _lacking(case: Case) -> str:
    """The constants that a processor's calibration lacks for a case; there is no datasheet to replace them."""
    what = "flash attention" if algorithm(case.algorithm).fused else f"{short_name(case.dtype)} arithmetic"
    return f"the calibration has no rates of {what}"


def _boundary(case: Case, gpu: Gpu, cap: int) -> tuple[int, int]:
    """The result of `memmodel max` for a GPU whose allocator may hold `cap` bytes, without a context."""
    kept = {name: value for name, value in gpu.values.items() if not name.startswith("context_")}
    capped = replace(gpu, values={**kept, "capacity": Value(cap, "the cap of this search")})
    found = threshold(case, capped, "seq", GRID)
    return found.largest, found.first_failing or 0

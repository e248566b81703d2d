"""The results of a prediction as frozen data: memory, work and time.

`print(report)` shows a table in a terminal, and so does `report` at the end of a notebook cell: see
`memmodel.base.rendering`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from memmodel.attention.case import Case
from memmodel.base.errors import UsageError, unknown
from memmodel.base.frozen import Frozen
from memmodel.base.rendering import Renderable
from memmodel.base.units import bytes_text
from memmodel.events.account import TensorRecord
from memmodel.events.origin import origin
from memmodel.events.program import Site
from memmodel.events.work import Work
from memmodel.gpus import Gpu, load_gpu
from memmodel.rules.sdpa import Choice
from memmodel.timing import KernelTime

T = TypeVar("T")
Excess = Literal["tensors", "fragmentation"]  # the blocks in use do not fit, or only the segments around them


def room_of(capacity_bytes: int | None, context_bytes: tuple[int, int] | None) -> int | None:
    """The bytes left to the allocator: capacity less the highest context seen, or all of it if none is known."""
    if capacity_bytes is None:
        return None
    return capacity_bytes - (context_bytes[1] if context_bytes else 0)


def excess_of(allocated_peak_bytes: int, room_bytes: int) -> Excess:
    """The reason that a step does not fit: its blocks exceed the room, or only fragmentation makes them."""
    return "tensors" if allocated_peak_bytes > room_bytes else "fragmentation"


class Memory(NamedTuple):
    """Bytes of one step after warm-up.

    Attributes:
        live_peak_bytes: storages alive at once, raw.
        allocated_peak_bytes: allocator blocks at once, workspaces included (`torch.cuda.max_memory_allocated`).
        reserved_peak_bytes: segments held from the driver (`torch.cuda.max_memory_reserved`).
        saved_bytes: kept from forward for backward, beyond the inputs.
        workspace_bytes: cuBLAS workspaces inside allocated.
        phase_peaks: live peak by phase.
        context_bytes: lowest and highest seen outside the allocator on this GPU; None where not known.
        capacity_bytes: what torch reports as the GPU's memory; None where not known.
        fits: whether the step runs; None where capacity is not known.
        groups: the live peak by what it belongs to (see `memmodel.events.groups`).
    """

    live_peak_bytes: int
    allocated_peak_bytes: int
    reserved_peak_bytes: int
    saved_bytes: int
    workspace_bytes: int
    phase_peaks: dict[str, int]
    context_bytes: tuple[int, int] | None
    capacity_bytes: int | None
    fits: bool | None
    groups: Mapping[str, int] = {}

    @property
    def device_bytes(self) -> int:
        """Memory of the process in nvidia-smi: reserved plus the context (0 if not known)."""
        return self.reserved_peak_bytes + (self.context_bytes[1] if self.context_bytes else 0)

    @property
    def room_bytes(self) -> int | None:
        """The bytes that the GPU leaves to the allocator; None if its capacity is not known."""
        return room_of(self.capacity_bytes, self.context_bytes)

    @property
    def excess(self) -> Excess | None:
        """The part that is too large; None if the step fits, or if that is not known."""
        if self.fits is not False or self.room_bytes is None:
            return None
        return excess_of(self.allocated_peak_bytes, self.room_bytes)

    @property
    def verdict(self) -> str:
        """A phrase that says whether the step fits, and if not, what is too large."""
        allocated, device = bytes_text(self.allocated_peak_bytes), bytes_text(self.device_bytes)
        if self.fits is None or self.capacity_bytes is None:
            return f"needs {device}; the GPU's capacity is not known"
        capacity = bytes_text(self.capacity_bytes)
        if self.fits:
            return f"fits: {device} of {capacity}"
        words = f"does not fit in {capacity}: it allocates {allocated}"
        if self.excess == "fragmentation":
            return f"{words}, and reserves {device} by fragmentation"
        if self.context_bytes and self.allocated_peak_bytes <= self.capacity_bytes:
            return f"{words}, and the context takes {bytes_text(self.context_bytes[1])}"
        return words


class Time(NamedTuple):
    """Seconds of one step.

    Attributes:
        seconds: of the step.
        phases: of each phase.
        binding: the ceiling that most of the time is spent at.
        shares: seconds by ceiling, the largest first.
        kernels: each kernel with its ceilings, in order of launch.
        basis: "datasheet" (a roofline and lower bound), "community" (calibrated with other people's runs of that
            GPU), "transferred" (of another GPU) or "local" (with this machine's). calibration: its name.
        low, high: seconds between which 90 % of such runs are expected; None for a bound.
    """

    seconds: float
    phases: dict[str, float]
    binding: str
    shares: dict[str, float]
    kernels: tuple[KernelTime, ...]
    basis: str
    calibration: str
    low: float | None = None
    high: float | None = None

    def at_least(self, seconds: float) -> "Time":
        """The same time where a bound is known: no end of its interval lies below it."""
        most = max(self.seconds, seconds)
        return self._replace(
            seconds=most,
            low=None if self.low is None else max(self.low, seconds),
            high=None if self.high is None else max(self.high, most),
        )


def columns_on_gpu(memory: Memory, bound: Time | None, expected: Time | None) -> dict[str, Any]:
    """What a GPU adds to a row of a sweep, in bytes and seconds; None where it is not known."""
    return {
        "fits": memory.fits,
        "allocated_peak_bytes": memory.allocated_peak_bytes,
        "reserved_peak_bytes": memory.reserved_peak_bytes,
        "seconds_at_least": bound and bound.seconds,
        "seconds_expected": expected and expected.seconds,
        "seconds_low": expected and expected.low,
        "seconds_high": expected and expected.high,
    }


class Refused(NamedTuple):
    """A kernel that PyTorch tried first: why it does not take the call, and what would let it in."""

    kernel: str
    reason: str
    remedy: str


class AttentionKernel(NamedTuple):
    """The kernel that calls of scaled_dot_product_attention take, on these lines of a trace; "math" is plain operators.

    `refused` are the kernels that PyTorch tried before it.
    """

    kernel: str
    lines: tuple[str, ...]
    refused: tuple[Refused, ...]


def attention_kernels(choices: Iterable[tuple[Choice, Site | None]]) -> tuple[AttentionKernel, ...]:
    """The choices of a run, equal ones together."""
    found: dict[tuple[str, tuple[Refused, ...]], dict[str, None]] = {}
    for choice, site in choices:
        refused = tuple(Refused(name, *why) for name, why in choice.refused.items())
        lines = found.setdefault((choice.backend or "", refused), {})
        place = origin(site)
        if place is not None:
            lines[f"{place.file.rpartition('/')[2]}:{place.line}"] = None
    return tuple(AttentionKernel(kernel, tuple(lines), refused) for (kernel, refused), lines in found.items())


class Prediction(Renderable, Frozen):
    """One algorithm on one case and GPU.

    Attributes:
        case: the configuration.
        title: the algorithm's name for people.
        memory, work: of one step.
        compulsory_bytes: of inputs and outputs, each once.
        time: the datasheet's lower bound; None where the GPU's data lack a rate, which `notes` name.
        calibrated: the time to expect; None without a calibration.
        tensors: the account of the step, largest first.
        notes: what else to know.
        attention: the kernels that calls of scaled_dot_product_attention take, and why no better ones.
    """

    case: Case
    title: str
    memory: Memory
    work: Work
    compulsory_bytes: int
    time: Time | None
    calibrated: Time | None
    tensors: tuple[TensorRecord, ...]
    notes: tuple[str, ...]
    attention: tuple[AttentionKernel, ...] = ()


class Mitigation(NamedTuple):
    """A change that lowers the peak or makes the step fit.

    Attributes:
        change: what to change.
        allocated_peak_bytes: with the change.
        less_bytes: by how much that is lower.
        fits: with the change; None where the capacity is not known.
    """

    change: str
    allocated_peak_bytes: int
    less_bytes: int
    fits: bool | None


class Computed(Sequence[T]):
    """A sequence computed at its first use: mitigations cost more than the prediction itself."""

    __slots__ = ("_compute", "_values")

    def __init__(self, compute: Callable[[], Iterable[T]]) -> None:
        self._compute: Callable[[], Iterable[T]] = compute
        self._values: tuple[T, ...] | None = None

    def _read(self) -> tuple[T, ...]:
        if self._values is None:
            self._values = tuple(self._compute())
        return self._values

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._read() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self._read(),)


class Model(NamedTuple):
    """The model that a layer is of.

    Attributes:
        name: in the list of models. layers: how many it has.
        cache_bytes: keys and values of all layers, batch and pages included; a layer with a window keeps its keys
            alone, latent attention its latents. None in training, which has no cache.
    """

    name: str
    layers: int
    cache_bytes: int | None


class Report(Renderable, Frozen):
    """Predictions for several algorithms on one GPU, with mitigations and assumptions; the model of `like`, if any."""

    gpu: Gpu
    predictions: tuple[Prediction, ...]
    mitigations: Sequence[Mitigation]
    assumptions: tuple[str, ...]
    model: Model | None = None

    def __getitem__(self, algorithm: str) -> Prediction:
        """The prediction of an algorithm. Raises UsageError, which lists the algorithms predicted."""
        found = {prediction.case.algorithm: prediction for prediction in self.predictions}
        if algorithm not in found:
            raise unknown("algorithm of this report", algorithm, found)
        return found[algorithm]

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)


class SideBySide(Renderable, Frozen):
    """Reports on one configuration, one for each GPU."""

    reports: tuple[Report, ...]

    def __getitem__(self, gpu: str) -> Report:
        """The report on a GPU, by a name of it (`memmodel gpus`). Raises UsageError, which lists the GPUs."""
        found = {name: report for report in self.reports for name in (report.gpu.name, report.gpu.id)}
        try:
            return found[gpu if gpu in found else load_gpu(gpu).id]
        except (KeyError, UsageError):
            raise unknown("GPU of these reports", gpu, found) from None

    def __iter__(self) -> Iterator[Report]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

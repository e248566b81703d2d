"""The roofline picture: the ceilings of a GPU, and every kernel of a prediction as a point.

Williams, Waterman and Patterson, "Roofline" (2009): FLOP/s against FLOP per byte of HBM traffic, both logarithmic.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memmodel.base.dtypes import DType, short_name
from memmodel.base.errors import UsageError
from memmodel.base.rendering import Drawing
from memmodel.events.liveness import step_launches
from memmodel.events.program import Program
from memmodel.gpus import Gpu
from memmodel.models.program import program_of
from memmodel.models.results import ModelPrediction, ModelReport
from memmodel.prediction import Prediction, Report, Time
from memmodel.recorder import record

_SAME = 1.02  # ceilings within this ratio are drawn as one


class Roof(NamedTuple):
    """A ceiling: `kind` "memory" (rate in B/s, slanted) or "compute" (FLOP/s or exponentials/s, flat)."""

    name: str
    kind: str
    rate: float
    source: str


class Point(NamedTuple):
    """The launches of one kernel with the same work, in one algorithm's step.

    Attributes:
        kernel: its name. launches: how many there are. flops, hbm_bytes: of one. intensity: FLOP/B.
        seconds: of one, by the datasheet (a lower bound). expected_seconds: as calibrated; None without a calibration.
        binding: the ceiling that limits it by the datasheet.
    """

    algorithm: str
    kernel: str
    launches: int
    flops: float
    hbm_bytes: float
    intensity: float
    seconds: float
    expected_seconds: float | None
    binding: str

    @property
    def rate(self) -> float:
        """FLOP/s by the datasheet."""
        return self.flops / self.seconds

    @property
    def expected_rate(self) -> float | None:
        """FLOP/s as calibrated."""
        return None if self.expected_seconds is None else self.flops / self.expected_seconds


class MeasuredPoint(NamedTuple):
    """A recorded run of a phase, with its FLOP and FLOP/B, and measured and predicted seconds."""

    kernel: str
    what: str
    flops: float
    intensity: float
    seconds: float
    predicted_seconds: float

    @property
    def rate(self) -> float:
        """FLOP/s as measured."""
        return self.flops / self.seconds

    @property
    def predicted_rate(self) -> float:
        """FLOP/s as predicted."""
        return self.flops / self.predicted_seconds


class StepTime(NamedTuple):
    """The time to expect of an algorithm's step, in seconds, and between which 9 of 10 runs are expected."""

    algorithm: str
    seconds: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Roofline(Drawing):
    """A GPU's ceilings and a report's kernels.

    Attributes:
        gpu: its name. case: the configuration in words. dtype: of the matrix products.
        roofs: memory first, then compute, fastest first. peak: the ceiling of `dtype`'s matrix products.
        balance: FLOP/B where that ceiling meets HBM. points: kernels with arithmetic. without: names of the others.
        steps: the time to expect of each algorithm's step, where it is known.
        measured: recorded runs. notes: on these runs.
    """

    gpu: str
    case: str
    dtype: str
    roofs: tuple[Roof, ...]
    peak: Roof
    balance: float
    points: tuple[Point, ...]
    without: tuple[str, ...]
    steps: tuple[StepTime, ...] = ()
    measured: tuple[MeasuredPoint, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> Roof:
        """HBM's ceiling."""
        return next(roof for roof in self.roofs if roof.name == "HBM")

    @property
    def slopes(self) -> list[Roof]:
        """The ceilings that rise with intensity: HBM's, and L2's where it is known."""
        return [roof for roof in self.roofs if roof.kind == "memory"]

    @property
    def above(self) -> bool:
        """Whether a point lies above the peak: its FLOP count all units, which run at the same time."""
        return any(point.rate > self.peak.rate for point in self.points)


def roofline(report: Report, measured: Sequence[MeasuredPoint] = (), notes: Sequence[str] = ()) -> Roofline:
    """The picture of a report. Raises UsageError where the GPU's data lack the bandwidth or the dtype's peak."""
    case = report.predictions[0].case
    points = [
        point
        for prediction in report.predictions
        for point in _points(prediction, prediction.case.algorithm, record(prediction.case))
    ]
    steps = [one for p in report.predictions for one in _steps(p.case.algorithm, p.calibrated)]
    return _drawn(report.gpu, case.describe(), case.dtype, points, steps, measured, notes)


def model_roofline(report: ModelReport) -> Roofline:
    """The picture of a whole model's step. Raises UsageError as `roofline` does."""
    prediction = report.prediction
    case = prediction.case
    words = f"{case.arch.name}, {case.phase}, batch {case.batch}, seq {case.seq}"
    points = _points(prediction, case.arch.name, program_of(case))
    return _drawn(report.gpu, words, case.dtype, list(points), list(_steps(case.arch.name, prediction.calibrated)))


def _steps(algorithm: str, time: Time | None) -> Iterator[StepTime]:
    if time is not None:
        yield StepTime(algorithm, time.seconds, time.low, time.high)


def _drawn(
    gpu: Gpu,
    words: str,
    dtype: DType,
    points: Sequence[Point],
    steps: Sequence[StepTime],
    measured: Sequence[MeasuredPoint] = (),
    notes: Sequence[str] = (),
) -> Roofline:
    kind = short_name(dtype)
    found = tuple(roofs(gpu))
    peak = _peak(gpu, kind)
    return Roofline(
        gpu.name,
        words,
        kind,
        found,
        next(roof for roof in found if roof.kind == "compute" and 1 / _SAME < peak / roof.rate < _SAME),
        gpu.balance_point(dtype),
        tuple(point for point in points if point.flops),
        tuple(dict.fromkeys(point.kernel for point in points if not point.flops)),
        tuple(steps),
        tuple(measured),
        tuple(notes),
    )


def _peak(gpu: Gpu, dtype: str) -> float:
    """FLOP/s of matrix products. Raises UsageError, with what to try, if the GPU has none of that type."""
    try:
        return gpu.peak_by_name(dtype)
    except UsageError as missing:
        if dtype == "bf16" and "tensor.fp16" in gpu.values:
            raise UsageError(f"{missing}; or try --dtype fp16") from missing
        raise


def roofs(gpu: Gpu) -> Iterator[Roof]:
    """HBM, L2 if its bandwidth is known, then the flat ceilings, fastest first."""
    yield Roof("HBM", "memory", gpu.bandwidth, gpu.source("bandwidth"))
    if "l2_bandwidth" in gpu.values:
        yield Roof("L2", "memory", gpu.value("l2_bandwidth"), gpu.source("l2_bandwidth"))
    flat = [(f"tensor {q.removeprefix('tensor.')}", q) for q in gpu.values if _is_float_peak(q)]
    flat += [(f"{name} units", f"vector.{name}") for name in ("fp32", "fp64") if f"vector.{name}" in gpu.values]
    found = [Roof(name, "compute", gpu.value(q), gpu.source(q)) for name, q in flat]
    if {"boost_clock", "exp_per_clock_per_sm", "sm_count"} <= gpu.values.keys():
        found.append(Roof("exp units", "compute", gpu.exp_rate, gpu.source("exp_per_clock_per_sm")))
    yield from _merged(sorted(found, key=lambda roof: -roof.rate))


def _is_float_peak(quantity: str) -> bool:
    """Whether it is a tensor peak of a float type, not that of products which accumulate in fp16."""
    return quantity.startswith("tensor.") and "acc" not in quantity and quantity != "tensor.int8"


def _merged(roofs: Iterable[Roof]) -> list[Roof]:
    """Ceilings of one height as one, under both names: "tensor fp16, bf16"."""
    found: list[Roof] = []
    for roof in roofs:
        if found and found[-1].rate / roof.rate < _SAME:
            last = found.pop()
            both = last.name.startswith("tensor ") and roof.name.startswith("tensor ")
            name = f"{last.name}, {roof.name.removeprefix('tensor ') if both else roof.name}"
            roof = last._replace(name=name)
        found.append(roof)
    return found


def _points(prediction: Prediction | ModelPrediction, name: str, program: Program) -> Iterator[Point]:
    """The kernels of the step in order of their first launch, equal ones together."""
    if prediction.time is None:
        return
    launches = step_launches(program)
    expected: Sequence[float | None] = [None] * len(launches)
    if prediction.calibrated is not None:
        expected = [kernel.seconds for kernel in prediction.calibrated.kernels]
    counts: dict[Point, int] = {}
    for launch, kernel, calibrated in zip(launches, prediction.time.kernels, expected, strict=True):
        work = launch.least  # the datasheet's time is a bound, which counts that work alone
        flops, moved = float(work.flops), float(work.hbm_bytes)
        point = Point(
            *(name, kernel.name, 1, flops, moved, flops / moved),
            *(kernel.seconds, calibrated, kernel.binding.name),
        )
        counts[point] = counts.get(point, 0) + 1
    for point, count in counts.items():
        yield point._replace(launches=count)

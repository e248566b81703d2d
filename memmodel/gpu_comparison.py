"""One configuration on many GPUs: whether it fits, how long it takes, its tokens a second, and what they cost."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from memmodel.allocator import AllocatorConfig
from memmodel.attention.case import Case
from memmodel.base.device import Device
from memmodel.base.errors import UsageError, check_kind, choice, shortened, unknown
from memmodel.base.rendering import Drawing
from memmodel.base.signatures import keywords_of, taking
from memmodel.events.program import Program
from memmodel.gpus import Gpu, all_gpus, load_gpu
from memmodel.models.choices import keywords, model_case
from memmodel.models.predict import SPREAD, assumptions_of, named_architecture, step_on, tokens_of
from memmodel.models.program import program_of
from memmodel.models.setting import ModelCase
from memmodel.prediction import Memory, Report, Time
from memmodel.predictor import predict
from memmodel.step import device_of
from memmodel.timing import Calibration
from memmodel.timing.transfer import SHARES

SORTS = ("time", "cost", "memory", "name")
_HOUR = 3600.0  # seconds
_MOST = 1e5  # $ an hour: more is no price of a GPU
_OWN = "from runs on the GPU itself"
_FEW = 8
_NO_TIME = "no time:"
_GIVEN = [one.name for one in keywords_of(predict)]
_RATES = "tokens a second and cost are those of the expected time; at least: necessary work over datasheet rates"


class OnGpu(NamedTuple):
    """A step on one GPU.

    Attributes:
        gpu: it. memory: of the step. tokens: that the step works on.
        time: the datasheet's lower bound; None where the GPU's data lack a rate.
        calibrated: the time to expect, with its interval; None without rates.
        dollars_per_hour: the GPU's price; None where none is known.
        missing: why there is no time; "" where there is one.
    """

    gpu: Gpu
    memory: Memory
    tokens: int
    time: Time | None
    calibrated: Time | None
    dollars_per_hour: float | None
    missing: str = ""

    @property
    def tokens_per_second(self) -> float | None:
        """At the expected time; None without one, and where the step does not fit."""
        if self.calibrated is None or self.memory.fits is False:
            return None
        return self.tokens / self.calibrated.seconds

    @property
    def dollars_per_million_tokens(self) -> float | None:
        """The price of a million tokens at the expected time; None where it, or the price, is not known."""
        if self.dollars_per_hour is None or self.tokens_per_second is None:
            return None
        return 1e6 * self.dollars_per_hour / _HOUR / self.tokens_per_second


@dataclass(frozen=True, slots=True)
class GpuComparison(Drawing):
    """One step on several GPUs, the best first.

    Attributes:
        case: the configuration: of one layer's attention, or of a whole model. title: what runs on it, for people.
        sort: what the order is by: a name of `SORTS`. rows: the step on each GPU, those that it fits on first.
        assumptions: what holds for all of them.
    """

    case: Case | ModelCase
    title: str
    sort: str
    rows: tuple[OnGpu, ...]
    assumptions: tuple[str, ...]

    def __getitem__(self, gpu: str) -> OnGpu:
        """The row of a GPU, by its id (`memmodel gpus`) or full name. Raises UsageError, which lists the GPUs."""
        found = {name: row for row in self.rows for name in (row.gpu.name, row.gpu.id)}
        if gpu not in found:
            raise unknown("GPU of this comparison", gpu, found)
        return found[gpu]

    def __iter__(self) -> Iterator[OnGpu]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@taking([*keywords_of(predict), *keywords()])
def compare(
    gpus: str | Gpu | Iterable[str | Gpu] = "all",
    algorithm: str = "flash",
    *,
    model: str | None = None,
    prices: Mapping[str, float] | None = None,
    sort: str | None = None,
    **given: Any,
) -> GpuComparison:
    """Compare GPUs on one configuration: fits, time with its interval, tokens a second and cost.

    Args:
        gpus: names (`memmodel gpus` lists them) or `Gpu` objects; "all" for every GPU of the database.
        algorithm: of one layer's attention.
        model: instead, a whole model's step: a name (`memmodel models`) or a config.json.
        prices: $ an hour by GPU; where none is given that of the GPU's file, if it has one.
        sort: "time", "cost" (of a token), "memory" or "name"; by cost where there is a price, else by time.
        given: the other arguments of `predict`; of a model, those of `memmodel.model` but for the GPU.

    Raises UsageError for anything that is not a valid configuration, and for a price of a GPU that is not compared.
    """
    listed = _listed(gpus)
    if model is None:
        for name in given:
            if name not in _GIVEN:
                raise unknown("setting", name, _GIVEN)
        return compare_reports([predict(gpu, algorithm, **given) for gpu in listed], prices, sort)
    allocator, calibration = given.pop("allocator", None), given.pop("calibration", None)
    case = model_case(named_architecture(model), **given)
    return compare_model(case, listed, [calibration] * len(listed), allocator, prices, sort)


def _listed(gpus: Any) -> list[Gpu]:
    if isinstance(gpus, str) and gpus.casefold() == "all":
        return list(all_gpus())
    try:
        several = [gpus] if isinstance(gpus, str | Gpu) else list(gpus)
    except TypeError:
        several = [gpus]
    if not several:
        raise UsageError('no GPU to compare: give names, or "all"')
    return [gpu if isinstance(gpu, Gpu) else load_gpu(gpu) for gpu in several]


def compare_reports(
    reports: Sequence[Report], prices: Mapping[str, float] | None = None, sort: str | None = None
) -> GpuComparison:
    """The comparison of predictions of one algorithm, a report for each GPU."""
    rows = []
    for report in reports:
        if len(report) != 1:
            names = ", ".join(prediction.case.algorithm for prediction in report)
            raise UsageError(f"algorithms {names}: GPUs are compared on one")
        (found,) = report
        tokens = int(found.case.batch * found.case.seq)
        missing = next((note for note in found.notes if _NO_TIME in note), "")
        rows.append(OnGpu(report.gpu, found.memory, tokens, found.time, found.calibrated, _price(report.gpu), missing))
    common = [
        line
        for line in reports[0].assumptions
        if all(line in report.assumptions for report in reports) and not line.startswith(("time, ", "memory outside"))
    ]
    first = reports[0].predictions[0]
    return _sorted(GpuComparison(first.case, first.title, "", tuple(rows), (*common, _RATES)), prices, sort)


def compare_model(
    case: ModelCase,
    gpus: Sequence[Gpu],
    calibrations: Sequence[Calibration | None] | None = None,
    allocator: AllocatorConfig | None = None,
    prices: Mapping[str, float] | None = None,
    sort: str | None = None,
) -> GpuComparison:
    """The comparison of a whole model's step, each GPU with its calibration (None for the shipped one)."""
    if case.layout.world > 1:
        raise UsageError(f"{case.layout.words}: GPUs are compared on a step of one of them, leave the layout out")
    programs: dict[Device, Program] = {}
    rows = []
    for gpu, given in zip(gpus, calibrations or [None] * len(gpus), strict=True):
        on = replace(case, device=device_of(gpu))
        program = programs.get(on.device) or programs.setdefault(on.device, program_of(on))
        memory, time, expected, notes = step_on(program, case, gpu, allocator, given)
        missing = next((note for note in notes if _NO_TIME in note), "")
        rows.append(OnGpu(gpu, memory, tokens_of(case), time, expected, _price(gpu), missing))
    assumed = (*assumptions_of(case, allocator), SPREAD, _RATES)
    return _sorted(GpuComparison(case, case.arch.name, "", tuple(rows), assumed), prices, sort)


def _price(gpu: Gpu) -> float | None:
    return gpu.value("price") if "price" in gpu.values else None


def _sorted(found: GpuComparison, prices: Mapping[str, float] | None, sort: str | None) -> GpuComparison:
    """The rows with the prices given, those that the step fits on first, the best of each first."""
    of_gpu = {row.gpu.id: None for row in found} | _by_id({} if prices is None else prices, [row.gpu for row in found])
    rows = [row._replace(dollars_per_hour=of_gpu[row.gpu.id] or row.dollars_per_hour) for row in found]
    priced = any(row.dollars_per_hour is not None for row in rows)
    by = choice("order", sort, SORTS) if sort is not None else "cost" if priced else "time"
    if by == "cost" and not priced:
        raise UsageError("--sort cost without a price: give --price H100=2.50, in $ an hour")
    rows.sort(key=lambda row: (_FITS_FIRST[row.memory.fits], *_KEYS[by](row)))
    of_some = (*_origins(rows), *_without_context(rows))
    return replace(found, rows=tuple(rows), sort=by, assumptions=(*found.assumptions, *of_some))


def _origins(rows: Iterable[OnGpu]) -> Iterator[str]:
    """Where the rates of the expected times are from, each with the GPUs that take them."""
    found: dict[str, list[str]] = {_OWN: []}
    for row in rows:
        if row.calibrated is not None:
            of_others = row.calibrated.basis == "transferred"
            words = row.calibrated.calibration.removesuffix(SHARES) if of_others else _OWN
            found.setdefault(words, []).append(row.gpu.id)
    yield from (f"time, expected, {words}: {', '.join(ids)}" for words, ids in found.items() if ids)


def _without_context(rows: Iterable[OnGpu]) -> Iterator[str]:
    ids = [row.gpu.id for row in rows if row.memory.context_bytes is None]
    if ids:
        of = ", ".join(ids) if len(ids) <= _FEW else f"{len(ids)} of the GPUs (`memmodel gpus NAME` shows context_low)"
        yield f"memory outside the allocator is not known, and taken as 0: {of}"


def _by_id(prices: Mapping[str, float], gpus: Sequence[Gpu]) -> dict[str, float]:
    """Checked prices by the id of their GPU."""
    check_kind("prices", prices, Mapping, 'a dict of $ an hour by GPU, such as {"H100": 2.50}')
    found = {}
    names = {gpu.name.casefold(): gpu.id for gpu in gpus} | {gpu.id: gpu.id for gpu in gpus}
    for name, price in prices.items():
        id_ = names.get(str(name).casefold()) or load_gpu(name).id
        if id_ not in names.values():
            raise UsageError(f"price of {name} ({id_}), which is not compared: add it to the GPUs, or leave it out")
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 < price < _MOST:
            raise UsageError(f"price of {name} {shortened(price)}: expected $ an hour, such as 2.50")
        found[id_] = float(price)
    return found


def _known_first(value: float | None) -> tuple[bool, float]:
    return value is None, value or 0.0


_FITS_FIRST = {True: 0, None: 1, False: 2}
_KEYS: dict[str, Callable[[OnGpu], tuple[Any, ...]]] = {
    "time": lambda row: _known_first(row.calibrated and row.calibrated.seconds),
    "cost": lambda row: (*_known_first(row.dollars_per_million_tokens), *_KEYS["time"](row)),
    "memory": lambda row: (row.memory.device_bytes,),
    "name": lambda row: (row.gpu.id,),
}

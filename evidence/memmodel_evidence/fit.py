"""Calibrations fitted to recorded runs. `python -m memmodel_evidence.fit` fits them all again (it needs scipy)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import product
from statistics import fmean, median

from memmodel.base.dtypes import dtype
from memmodel.base.errors import UsageError
from memmodel.events.program import Program
from memmodel.gpus import load_gpu
from memmodel.timing import Calibration, Constant
from memmodel.timing.host import START
from memmodel.timing.known import read_calibration
from memmodel.timing.transfer import scaled
from memmodel_evidence.calibrations import MADE_OF, SHIPPED, published_products, shipped_calibration
from memmodel_evidence.fits import DISPATCH_N, FITS, FITTED_N, LEFT_OUT, LENT, WIDE_TILE, Fit, dispatches, training_rows
from memmodel_evidence.programs import launches, program_of
from memmodel_evidence.records import DATA, everything
from memmodel_evidence.times import Timed, machine_of, predicted_seconds, times
from memmodel_validate.calibrate.store import save
from memmodel_validate.ledger import Ledger, Source


@dataclass(frozen=True, slots=True)
class _Row:
    timed: Timed
    source: Source
    program: Program

    @property
    def products(self) -> str:
        """The name of the type that its matrix products run in."""
        return machine_of(self.source, None).matmul_type(dtype(self.timed.run.case["dtype"]))

    def log_error(self, calibration: Calibration) -> float:
        machine = machine_of(self.source, calibration)
        return math.log(predicted_seconds(self.program, self.timed.phase, self.source, machine) / self.timed.seconds)


def _row(timed: Timed, source: Source) -> _Row:
    return _Row(timed, source, program_of(timed.run, source))


def fitted(fit: Fit, ledger: Ledger) -> Calibration:
    """The calibration: each part's constants minimise its rows' mean |log error| ** power. Raises UsageError."""
    rows = [_row(timed, ledger.sources[timed.run.source]) for timed in training_rows(fit, ledger)]
    if not any(row.timed.run.case["seq"] != DISPATCH_N for row in rows):
        raise UsageError(f"{fit.name} has no row at n = {FITTED_N} to fit constants to")
    constants = {**fit.given, **_of_its_like(fit)}
    if not fit.flash:
        constants |= _dispatch([row for row in rows if row.timed.run.case["seq"] == DISPATCH_N])
        rows = [row for row in rows if row.timed.run.case["seq"] == FITTED_N]
    for part, start, origin in _parts(fit, rows):
        narrow = _minimised(fit, constants, part, start, origin)
        wide = _in_wide_tiles(fit, constants, part, start, origin)
        clearly = wide and 2 * _loss(fit, constants | wide, part) < _loss(fit, constants | narrow, part)
        constants |= _decided(fit, constants, wide if clearly else narrow, part)
    return completed(fit, constants)._replace(machine=_machine(fit, rows), notes=_notes(fit, rows))


def _of_its_like(fit: Fit) -> dict[str, Constant]:
    """The rates that a fit has of another GPU."""
    found = {}
    for name in LENT if fit.like else ():
        source, of = load_gpu(fit.like), stored(fit.like).constants[name]
        value = scaled(name, of, source, load_gpu(fit.gpu))
        assert isinstance(value, float)
        found[name] = Constant(
            float(f"{value:.4g}"), f"that of {source.name}, by its share of the datasheet; {of.origin}"
        )
    return found


def completed(fit: Fit, constants: Mapping[str, Constant]) -> Calibration:
    """A calibration of fitted constants, with those that stand for others.

    What is not known of a flash kernel's backward is as in its forward: the share of the peak above all; what is known
    of its forward alone follows from that by BACKWARD. Thin products have one rate, and tensor cores take both 16-bit
    types at one.
    """
    if fit.flash:
        constants = {**constants, **{name: of for name, of in _backward(constants).items() if name not in constants}}
    both = dict(constants)
    for given, same in (("flash.", "flash_backward."), (".values", ".scores"), (".fp16", ".bf16")):
        both |= {name.replace(given, same): both[name] for name in tuple(both) if given in name}
        both |= constants
    return Calibration(fit.name, "community", {}, both)


# What a backward's constants are where only its forward's were fitted: as in the kernels that have both, on an H100
# (overlap less by 0.49, 0.43 and 0.43, prologues 4.1, 3.7 and 4.0 times as long).
BACKWARD: dict[str, Callable[[float], float]] = {
    "overlap": lambda forward: max(0.0, forward - 0.45),
    "prologue": lambda forward: 4 * forward,
}


def _backward(constants: Mapping[str, Constant]) -> dict[str, Constant]:
    found = {name: constants[f"flash.{name}"] for name in BACKWARD if f"flash.{name}" in constants}
    return {
        f"flash_backward.{name}": Constant(
            BACKWARD[name](of.at(0.0)), f"from its forward's, as on an H100: {of.origin}"
        )
        for name, of in found.items()
    }


def _parts(fit: Fit, rows: list[_Row]) -> Iterator[tuple[list[_Row], dict[str, float], str]]:
    """Rows with the constants that they decide, and the rows in words."""
    if not fit.flash:
        yield rows, dict(fit.start), f"n = {FITTED_N} of {', '.join(fit.sources)}"
        return
    for phases, prefix in ((("forward", "step"), "flash."), (("backward",), "flash_backward.")):
        start = {name: value for name, value in fit.start.items() if name.startswith(prefix)}
        of_phase = [row for row in rows if row.timed.phase in phases]
        if start:
            head_dims = " and ".join(map(str, sorted({row.timed.run.case["head_dim"] for row in of_phase})))
            citation = of_phase[0].source.provenance["citation"]
            origin = f"{fit.implementation} {of_phase[0].timed.phase} without mask, head dims {head_dims}; {citation}"
            yield of_phase, start, origin


def _in_wide_tiles(
    fit: Fit, known: Mapping[str, Constant], rows: list[_Row], start: Mapping[str, float], origin: str
) -> dict[str, Constant]:
    """The constants, if narrow fp32 results came in wide tiles: their time then does not grow with the head dim.

    Inferred from times, not from kernels' names: on an A800, from head dim 16 to 128, forward and backward each grow by
    one product of their two and four (docs/time.md).
    """
    if "matmul.fp32.values" not in start:
        return {}
    tile = {"tile.fp32.thin": Constant(float(WIDE_TILE), f"fitted to {origin}")}
    return tile | _minimised(fit, {**known, **tile}, rows, start, origin)


def _decided(
    fit: Fit, known: Mapping[str, Constant], found: Mapping[str, Constant], rows: list[_Row]
) -> dict[str, Constant]:
    """The constants that a row depends on; of a fit without its source no others are known.

    Products that hide behind other kernels' limits in every row of their type are as fast as the best on record.
    """
    if fit not in LEFT_OUT:
        return dict(found)
    lowest, decided, types = _loss(fit, {**known, **found}, rows), {}, {row.products for row in rows}
    for name, constant in found.items():
        moved = constant._replace(value=constant.at(0.0) / 2)
        if _loss(fit, {**known, **found, name: moved}, rows) != lowest:
            decided[name] = constant
        elif name.removeprefix("matmul.").removesuffix(".values") in types:
            decided[name] = Constant(_most(fit, name), "no row shows it: the best product on record, or listed")
    return decided


def _loss(fit: Fit, constants: Mapping[str, Constant], rows: list[_Row]) -> float:
    calibration = completed(fit, constants)
    return fmean(abs(row.log_error(calibration)) ** fit.power for row in rows)


def _minimised(
    fit: Fit, known: Mapping[str, Constant], rows: list[_Row], start: Mapping[str, float], origin: str
) -> dict[str, Constant]:
    from scipy.optimize import minimize

    most = {name: _most(fit, name) for name in start}

    def constants(point: Sequence[float]) -> dict[str, Constant]:
        values = {name: min(_value(name, x), most[name]) for name, x in zip(start, point, strict=True)}
        return {name: Constant(value, f"fitted to {origin}") for name, value in values.items()}

    def loss(found: Mapping[str, Constant]) -> float:
        return _loss(fit, {**known, **found}, rows)

    options = {"xatol": 1e-5, "fatol": 1e-8, "maxiter": 4000}
    starts = _starts(fit, rows, known, start)
    ends = [minimize(lambda x: loss(constants(x)), x, method="Nelder-Mead", options=options) for x in starts]
    found = constants(min(ends, key=lambda end: end.fun).x)
    for name in found:  # a share that the GPU's best product hides could be any above it: it is taken as whole
        whole = {**found, name: Constant(1.0, f"{found[name].origin}; the GPU's best product is slower")}
        if name.endswith(".matmul") and loss(whole) <= loss(found):
            found = whole
    return found


def _starts(fit: Fit, rows: list[_Row], known: Mapping[str, Constant], start: Mapping[str, float]) -> list[list[float]]:
    """Where the search begins; rates of machines are first scaled to the machine's order of magnitude."""
    first = [_coordinate(name, value) for name, value in start.items()]
    if not fit.flash:
        guessed = completed(fit, {**known, **{name: Constant(value, "") for name, value in start.items()}})
        slower = fmean(row.log_error(guessed) for row in rows)
        first = [x + slower for x in first]
    if not fit.flash:
        return [[x + step for x in first] for step in (-0.5, 0.0, 0.5)]
    return [
        [x + step for x, step in zip(first, steps, strict=True)] for steps in product((-1.0, 1.0), repeat=len(first))
    ]


def _most(fit: Fit, name: str) -> float:
    """No rate is above the best one seen, or listed: nothing else bounds one that decides on no row."""
    if not fit.gpu or fit.flash or name == "broadcast":
        return math.inf
    gpu = load_gpu(fit.gpu)
    if not name.startswith("matmul."):
        return gpu.bandwidth
    seen = published_products(fit.gpu).get(name.removesuffix(".values"))
    return seen.at(0.0) if seen else gpu.peak_by_name(name.split(".")[1])


def _coordinate(name: str, value: float) -> float:
    """Where the search has a constant: logarithms of rates, logits of shares, so that any point is a valid constant."""
    return math.log(value / (1 - value)) if _is_share(name) else math.log(value)


def _value(name: str, x: float) -> float:
    value = 1 / (1 + math.exp(-x)) if _is_share(name) else math.exp(x)
    return float(f"{value:.4g}")


def _is_share(name: str) -> bool:
    return name.endswith((".matmul", ".overlap"))


def _dispatch(rows: list[_Row]) -> dict[str, Constant]:
    """Host time per operation: at n = 256 kernels are shorter than it."""
    found = {}
    for phase, name in (("forward", "dispatch"), ("backward", "dispatch_backward")):
        of_phase = [
            row for row in rows if row.timed.phase == phase and row.source.protocol["backward_time"] == "backward"
        ]
        if of_phase:
            each = [row.timed.seconds / (START[phase] + len(launches(row.program, (phase,)))) for row in of_phase]
            origin = f"median of n = {DISPATCH_N}: time over kernels and a start of {START[phase]}"
            found[name] = Constant(
                float(f"{median(each):.3g}"), origin, round((max(each) - min(each)) / median(each), 3)
            )
    return found


def _machine(fit: Fit, rows: list[_Row]) -> dict[str, str]:
    sources = {row.source.name: row.source for row in rows}.values()
    gpus = ", ".join(dict.fromkeys(source.gpu for source in sources))
    torch = ", ".join(dict.fromkeys(filter(None, (source.environment.get("torch") for source in sources))))
    return {"gpu": gpus, "gpu_id": fit.gpu, "torch": torch, "implementation": fit.implementation}


def _notes(fit: Fit, rows: list[_Row]) -> tuple[str, ...]:
    return (f"fitted to {len(rows)} recorded times of {', '.join(fit.sources)}",)


CALIBRATIONS = DATA / "calibrations"


@cache
def stored(name: str) -> Calibration:
    """The stored calibration of the fit of that name."""
    return read_calibration(CALIBRATIONS / f"{name}.json")


def calibration_of(fit: Fit, ledger: Ledger) -> Calibration:
    """The stored calibration of a fit; one of a table that is not shipped is fitted now. Raises UsageError."""
    if fit in FITS or fit in LEFT_OUT:
        return stored(fit.name)
    if find_spec("scipy") is None:
        raise UsageError(f"fitting constants to {fit.name} needs scipy: pip install 'memmodel[fit]'")
    return fitted(fit, ledger)


def on_its_host(calibration: Calibration, source: Source, ledger: Ledger) -> Calibration:
    """A calibration with the dispatch of a table's own host, from its rows at n = 256, which are not judged.

    Another host may take three times as long for an operation, on the same GPU.
    """
    described = "attention" in source.protocol
    rows = [run for run in ledger.of(source.name) if described and dispatches(run)]
    own = _dispatch([_row(timed, source) for run in rows for timed in times(run)])
    return calibration._replace(constants={**calibration.constants, **own})


def main(report: Callable[[str], None] = print) -> None:
    """Fit every calibration and write its file, and those of the GPUs that are shipped."""
    CALIBRATIONS.mkdir(exist_ok=True)
    for fit in (*FITS, *LEFT_OUT):
        calibration = fitted(fit, everything())
        save(calibration, str(CALIBRATIONS / f"{fit.name}.json"))
        stored.cache_clear()
        report(
            f"{fit.name}: "
            + ", ".join(f"{n} {c.value:.4g}" for n, c in calibration.constants.items() if n in fit.start)
        )
    for gpu, parts in MADE_OF.items():
        save(shipped_calibration(gpu, [stored(part) for part in parts]), str(SHIPPED / f"{gpu}.json"))


if __name__ == "__main__":
    main()

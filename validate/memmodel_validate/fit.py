"""Calibrations fitted to recorded runs: which rows each is fitted to, which it is judged on.

`python -m memmodel_validate.fit` fits them all again and writes their files (needs scipy). A constant is never fitted
to a row that it is judged on: naive attention is fitted at n = 4096 and judged beyond; a flash kernel without a mask at
head dims 64 and 128 and judged under a causal mask and at other head dims, its backward at head dim 64.
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, median

from memmodel.algorithms import ALGORITHMS
from memmodel.program import Program
from memmodel.timing import Calibration, Constant
from memmodel.timing.calibration import read_calibration
from memmodel_validate.community import MADE_OF, SHIPPED, shipped_calibration
from memmodel_validate.implementations import IMPLEMENTATIONS
from memmodel_validate.ledger import Run, Source
from memmodel_validate.programs import STANDARD, launches, program_of
from memmodel_validate.records import DATA, shipped
from memmodel_validate.times import Timed, machine_of, predicted_seconds, times

KERNELS = (*IMPLEMENTATIONS, STANDARD)
FITTED_N = 4096
DISPATCH_N = 256
FA2_A100 = "dao-ailab-flash-attention-0251105-assets-flash2-a100-fwd-bwd@a100-80gb-sxm4"
FA2_H100 = "dao-ailab-flash-attention-0251105-assets-flash2-h100-fwd-bwd@h100-80gb-sxm5"
FA3_FORWARD = "flashattention-3-paper-arxiv-2407-08608-fig-5@h100-80gb-sxm5"
FA3_BACKWARD = "flashattention-3-paper-arxiv-2407-08608-fig-6-decoded-by-col@h100-80gb-sxm5"


@dataclass(frozen=True, slots=True)
class Fit:
    """A calibration to make.

    Attributes:
        name: of its file. sources: whose rows it is fitted to. gpu: the id that it is a calibration of, or "".
        implementation: the flash kernel that it is of; "" for naive attention.
        start: the constants to fit, and where the search starts. given: constants that are listed, with their origin.
        judged: sources that it is judged on and fitted to no row of.
    """

    name: str
    sources: tuple[str, ...]
    gpu: str
    implementation: str
    start: Mapping[str, float]
    given: Mapping[str, tuple[float, str]]
    judged: tuple[str, ...] = ()

    @property
    def flash(self) -> bool:
        """Whether it is of a flash kernel."""
        return self.implementation in IMPLEMENTATIONS

    def judges(self, run: Run) -> bool:
        """Whether it is made for what a run ran: a flash kernel by its name on any GPU, others by their source."""
        if self.flash or run.implementation in IMPLEMENTATIONS:
            return run.implementation == self.implementation
        return run.source in (*self.sources, *self.judged) and run.implementation in (STANDARD, *ALGORITHMS)

    def trains_on(self, timed: Timed) -> bool:
        """Whether a row is one that the constants are fitted to."""
        run, case = timed.run, timed.run.case
        if run.source not in self.sources or not self.judges(run):
            return False
        if not self.flash:
            return case["seq"] == FITTED_N or (case["seq"] == DISPATCH_N and run.implementation != STANDARD)
        return case["mask"] == "none" and case["head_dim"] in ((64,) if timed.phase == "backward" else (64, 128))


def _naive(
    name: str, *sources: str, gpu: str = "", starts: Mapping[str, float] | None = None, judged: tuple[str, ...] = ()
) -> Fit:
    own = {"bandwidth": 2e12, "reduction": 1e12, "matmul.fp32": 3e13} if starts is None else starts
    return Fit(name, sources, gpu, "", own, {}, judged)


_STANDARD = {"bandwidth": 2e12, "softmax": 2e12, "broadcast": 3e11, "matmul.fp16": 4e14}  # 16 bits, library softmax
_BOTH = {**_STANDARD, "reduction": 1e12, "matmul.fp32": 3e13, "matmul.tf32": 1e14}


_WGMMA = "PTX ISA, wgmma.mma_async: 64 rows of one operand"
_IN_ORDER, _LONGEST_FIRST = (1.0, "programs start in order"), (0.5, "the longest programs start first")


def _file(gpu: str, implementation: str) -> str:
    return f"{gpu}." + "-".join("".join(c if c.isalnum() else " " for c in implementation.lower()).split())


def _flash(implementation: str, tail: tuple[float, str], wgmma: bool, backward: bool = True) -> Fit:
    start = {"flash.matmul": 0.7, "flash.overlap": 0.5, "flash.prologue": 3000.0}
    if backward:
        start |= {"flash_backward.overlap": 0.3, "flash_backward.prologue": 20000.0}
    listed = {f"{flash}.tail": tail for flash in ("flash", "flash_backward")}
    if wgmma:
        listed |= {f"{flash}.warp_rows": (64.0, _WGMMA) for flash in ("flash", "flash_backward")}
    return Fit(
        _file("h100-sxm", implementation), (FA3_FORWARD, FA3_BACKWARD), "h100-sxm", implementation, start, listed
    )


def _fa2_on_a100() -> Fit:
    """FlashAttention-2 on an A100, of which only forward and backward together are published: three constants."""
    start = {"flash.matmul": 0.8, "flash.overlap": 0.5, "flash.prologue": 3700.0}
    given = {f"{flash}.tail": _IN_ORDER for flash in ("flash", "flash_backward")}
    return Fit(
        _file("a100-80gb-sxm", "FlashAttention-2"), (FA2_A100,), "a100-80gb-sxm", "FlashAttention-2", start, given
    )


_H100 = ("yyin-eager", "brandon-eager", "ab2163-eager", FA3_FORWARD, FA3_BACKWARD, FA2_H100)
FITS = (
    _naive("h100-sxm", *_H100, gpu="h100-sxm", starts=_BOTH, judged=("brandon-flash",)),
    _naive("a100-80gb-sxm", FA2_A100, gpu="a100-80gb-sxm", starts=_STANDARD),
    _naive("h20", "markmrli-eager", gpu="h20"),
    _naive("b200", "sara-eager", "sara-eager-2", gpu="b200", judged=("sara-flash",)),
    _naive("enzo-eager", "enzo-eager"),
    _naive("seed-eager", "seed-eager"),
    _naive("wuyh11-eager", "wuyh11-eager"),
    _naive("niccolo-eager", "niccolo-eager"),
    _flash("FlashAttention-2", _IN_ORDER, wgmma=False),
    _fa2_on_a100(),
    _flash("FlashAttention-3", _LONGEST_FIRST, wgmma=True),
    _flash("Triton (nightly 2024)", _IN_ORDER, wgmma=True, backward=False),
    _flash("cuDNN 9", _LONGEST_FIRST, wgmma=True),
)


@dataclass(frozen=True, slots=True)
class _Row:
    timed: Timed
    source: Source
    program: Program

    def log_error(self, calibration: Calibration) -> float:
        machine = machine_of(self.source, calibration)
        return math.log(predicted_seconds(self.program, self.timed.phase, self.source, machine) / self.timed.seconds)


def training_rows(fit: Fit) -> list[Timed]:
    """The times that a calibration is fitted to."""
    runs = (run for run in shipped().runs if run.source in fit.sources)
    return [timed for run in runs for timed in times(run) if fit.trains_on(timed)]


def fitted(fit: Fit) -> Calibration:
    """The calibration: each part's constants minimise the mean |log error| of its rows."""
    rows = [_Row(t, shipped().sources[t.run.source], _program(t.run)) for t in training_rows(fit)]
    constants = {name: Constant(value, origin) for name, (value, origin) in fit.given.items()}
    if not fit.flash:
        constants |= _dispatch([row for row in rows if row.timed.run.case["seq"] == DISPATCH_N])
        rows = [row for row in rows if row.timed.run.case["seq"] == FITTED_N]
    for part, start, origin in _parts(fit, rows):
        constants |= _minimised(fit, constants, part, start, origin)
    return _calibration(fit, constants)


def _calibration(fit: Fit, constants: Mapping[str, Constant]) -> Calibration:
    """What is not known of a flash kernel's backward is as in its forward: the share of the peak above all."""
    mirrored = {n.replace("flash.", "flash_backward."): c for n, c in constants.items() if n.startswith("flash.")}
    if "matmul.fp16" in constants:  # tensor cores take both 16-bit types at one rate
        mirrored["matmul.bf16"] = constants["matmul.fp16"]
    return Calibration(fit.name, "community", _machine(fit), {**mirrored, **constants}, _notes(fit))


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


def _minimised(
    fit: Fit, known: Mapping[str, Constant], rows: list[_Row], start: Mapping[str, float], origin: str
) -> dict[str, Constant]:
    from scipy.optimize import minimize

    def constants(point: Sequence[float]) -> dict[str, Constant]:
        return {n: Constant(_value(n, x), f"fitted to {origin}") for n, x in zip(start, point, strict=True)}

    def loss(point: Sequence[float]) -> float:
        calibration = _calibration(fit, {**known, **constants(point)})
        return fmean(abs(row.log_error(calibration)) for row in rows)

    options = {"xatol": 1e-5, "fatol": 1e-8, "maxiter": 4000}
    found = [minimize(loss, x, method="Nelder-Mead", options=options) for x in _starts(fit, rows, known, start)]
    return constants(min(found, key=lambda result: result.fun).x)


def _starts(fit: Fit, rows: list[_Row], known: Mapping[str, Constant], start: Mapping[str, float]) -> list[list[float]]:
    """Where the search begins; rates of machines are first scaled to the machine's order of magnitude."""
    first = [_coordinate(name, value) for name, value in start.items()]
    if not fit.flash:
        guessed = _calibration(fit, {**known, **{name: Constant(value, "") for name, value in start.items()}})
        slower = fmean(row.log_error(guessed) for row in rows)
        first = [x + slower for x in first]
    if not fit.flash:
        return [[x + step for x in first] for step in (-0.5, 0.0, 0.5)]
    return [
        [x + step for x, step in zip(first, steps, strict=True)] for steps in product((-1.0, 1.0), repeat=len(first))
    ]


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
            each = [row.timed.seconds / len(launches(row.program, (phase,))) for row in of_phase]
            origin = f"median of n = {DISPATCH_N}: time over kernels"
            found[name] = Constant(
                float(f"{median(each):.3g}"), origin, round((max(each) - min(each)) / median(each), 3)
            )
    return found


def _machine(fit: Fit) -> dict[str, str]:
    sources = [shipped().sources[name] for name in fit.sources]
    gpus = ", ".join(dict.fromkeys(source.gpu for source in sources))
    torch = ", ".join(dict.fromkeys(filter(None, (source.environment.get("torch") for source in sources))))
    return {"gpu": gpus, "gpu_id": fit.gpu, "torch": torch, "implementation": fit.implementation}


def _notes(fit: Fit) -> tuple[str, ...]:
    return (f"fitted to {len(training_rows(fit))} recorded times of {', '.join(fit.sources)}",)


@cache
def _program_of(key: str) -> Program:
    run = _runs_by_text()[key]
    return program_of(run, shipped().sources[run.source])


@cache
def _runs_by_text() -> dict[str, Run]:
    return {str(run): run for run in shipped().runs}


def _program(run: Run) -> Program:
    return _program_of(str(run))


CALIBRATIONS = DATA / "calibrations"


@cache
def calibration_of(name: str) -> Calibration:
    """The stored calibration of the fit of that name."""
    return read_calibration(CALIBRATIONS / f"{name}.json")


def write(path: Path, calibration: Calibration) -> None:
    """Write a calibration's file whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(json.dumps(calibration.to_dict(), indent=2, ensure_ascii=False) + "\n")
    Path(file.name).replace(path)


def main(report: Callable[[str], None] = print) -> None:
    """Fit every calibration and write its file, and those of the GPUs that are shipped."""
    CALIBRATIONS.mkdir(exist_ok=True)
    for fit in FITS:
        calibration = fitted(fit)
        write(CALIBRATIONS / f"{fit.name}.json", calibration)
        report(
            f"{fit.name}: "
            + ", ".join(f"{n} {c.value:.4g}" for n, c in calibration.constants.items() if n in fit.start)
        )
    calibration_of.cache_clear()
    for gpu, parts in MADE_OF.items():
        write(SHIPPED / f"{gpu}.json", shipped_calibration(gpu, [calibration_of(part) for part in parts]))


if __name__ == "__main__":
    main()

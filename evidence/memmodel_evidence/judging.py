"""Other people's runs, judged: memory digit by digit; times where no constant was fitted to them, or why not."""

from collections import Counter
from collections.abc import Iterator
from functools import cache

from memmodel.errors import UsageError
from memmodel.program import Program
from memmodel.timing import Calibration
from memmodel_evidence.comparison import Comparison, comparison
from memmodel_evidence.fit import calibration_of, on_its_host
from memmodel_evidence.fits import FITTED_N, KERNELS, Fit, fit_of
from memmodel_evidence.implementations import IMPLEMENTATIONS
from memmodel_evidence.programs import program_of
from memmodel_evidence.records import everything, rows
from memmodel_evidence.times import Timed, machine_of, predicted_seconds, times
from memmodel_validate.judged import Accuracy, Judged
from memmodel_validate.ledger import Ledger, Run, Source
from memmodel_validate.own import is_own, judged_runs


class _LeftOut(Exception):  # noqa: N818 - it is no error: the reason is counted
    """Why a time is not judged."""


def accuracy(*ledgers: str) -> Accuracy:
    """Judge every run on record, our own among them, and those of more files."""
    ledger = everything(*ledgers)
    return of_others(ledger) + judged_runs(ledger)


def of_others(ledger: Ledger) -> Accuracy:
    """Judge other people's runs: the memory of the tables, and every time."""
    left_out: Counter[str] = Counter()
    judged = [*_memory(), *_times(ledger, left_out)]
    return Accuracy(tuple(judged), left_out)


@cache
def _memory() -> tuple[Judged, ...]:
    return tuple(_memory_of(compared) for row in rows() for compared in comparison(row))


def _memory_of(compared: Comparison) -> Judged:
    printed = float(compared.printed) * compared.table.unit_bytes
    source, what = compared.table.source, str(compared)
    return Judged(source.gpu, "memory", source.name, what, printed, compared.predicted, "B", compared.exact)


def _times(ledger: Ledger, left_out: Counter[str]) -> Iterator[Judged]:
    """Every recorded time that can be judged; the reasons for the others are counted in `left_out`."""
    calibrations: dict[str, Calibration] = {}
    for run in ledger.runs:
        source = ledger.sources[run.source]
        measured = [] if is_own(source) else list(times(run))
        try:
            model = _model(run, source, ledger, calibrations) if measured else None
        except _LeftOut as reason:
            left_out[str(reason)] += len(measured)
            continue
        if model is None:
            continue
        for timed in measured:
            try:
                yield _judged(timed, source, *model)
            except _LeftOut as reason:
                left_out[str(reason)] += 1


def _model(
    run: Run, source: Source, ledger: Ledger, calibrations: dict[str, Calibration]
) -> tuple[Program, Fit, Calibration]:
    """What a run did, and the constants that it is judged by."""
    try:
        program = program_of(run, source)
    except UsageError as reason:
        raise _LeftOut(str(reason)) from reason
    fit = fit_of(run, source)
    if fit is None:
        raise _LeftOut("no calibration is fitted to its table or kernel")
    if fit.flash and not source.gpu_id:
        raise _LeftOut("its GPU is not stated")
    key = f"{fit.name} on the host of {source.name}"
    if key not in calibrations:
        try:
            calibrations[key] = on_its_host(calibration_of(fit, ledger), source, ledger)
        except UsageError as reason:
            raise _LeftOut(str(reason)) from reason
    return program, fit, calibrations[key]


def _judged(timed: Timed, source: Source, program: Program, fit: Fit, calibration: Calibration) -> Judged:
    if fit.trains_on(timed):
        raise _LeftOut("constants are fitted to it")
    machine = machine_of(source, calibration)
    predicted = predicted_seconds(program, timed.phase, source, machine)
    if fit.flash:
        _check_flash(timed, fit)
    else:
        _check_naive(timed, "tf32" if machine.tf32 else timed.run.case["dtype"], calibration)
    what = f"{timed.run}, {timed.phase}: measured {timed.seconds * 1e3:.4g} ms, predicted {predicted * 1e3:.4g} ms"
    eager = "compiled time" if timed.run.implementation == "compiled" else "naive time"
    quantity = f"flash {timed.phase} time" if fit.flash else eager
    plain = _plain(timed, program, source)
    return Judged(source.gpu, quantity, _subject(timed.run), what, timed.seconds, predicted, "s", None, plain)


def _check_flash(timed: Timed, fit: Fit) -> None:
    if timed.phase != "forward" and not IMPLEMENTATIONS[fit.implementation].backward:
        raise _LeftOut("this kernel's backward is not known")


def _check_naive(timed: Timed, kind: str, calibration: Calibration) -> None:
    if f"matmul.{kind}.values" not in calibration.constants:
        raise _LeftOut("no constants are fitted to its type on its GPU")
    if timed.run.case["seq"] < FITTED_N:
        raise _LeftOut(f"naive attention below n = {FITTED_N}: dispatch and L2 decide")


def _subject(run: Run) -> str:
    """The kernel of a published figure, the table of another."""
    return run.implementation if run.implementation in KERNELS else run.source


def _plain(timed: Timed, program: Program, source: Source) -> float | None:
    """The error of the datasheet's roofline; None where the GPU or one of its rates is not known."""
    try:
        return abs(predicted_seconds(program, timed.phase, source, machine_of(source, None)) / timed.seconds - 1)
    except UsageError:
        return None

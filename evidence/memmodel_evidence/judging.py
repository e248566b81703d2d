"""Other people's runs, judged: memory digit by digit; times where no constant was fitted to them, or why not."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

from memmodel.base.errors import UsageError
from memmodel.events.program import Program
from memmodel.timing import Calibration
from memmodel_evidence.as_seen import times_as_seen
from memmodel_evidence.fit import calibration_of, on_its_host
from memmodel_evidence.fits import FITTED_N, KERNELS, Fit, fit_of
from memmodel_evidence.graphs import compiled_for
from memmodel_evidence.implementations import IMPLEMENTATIONS
from memmodel_evidence.memory import Printed, numbers
from memmodel_evidence.programs import restated
from memmodel_evidence.records import everything, rows
from memmodel_evidence.serving_judging import serving_times
from memmodel_evidence.times import Timed, known, machine_of, predicted_seconds, roofline_error, times
from memmodel_validate.accuracy import models_at_release
from memmodel_validate.comparison import Accuracy, Comparison
from memmodel_validate.ledger import Ledger, Run, Source
from memmodel_validate.validation_runs import is_validation, judge_runs


def accuracy(*ledgers: str) -> Accuracy:
    """Judge every run on record, our own among them, and those of more files."""
    ledger = everything(*ledgers)
    return (judge_others(ledger) if ledgers else others_on_record()) + judge_runs(ledger) + models_at_release()


@cache
def others_on_record() -> Accuracy:
    """Judge other people's runs of the repository, once: it takes seconds."""
    return judge_others(everything())


def judge_others(ledger: Ledger) -> Accuracy:
    """Judge other people's runs: the memory of the tables, every time, and the serving kernels."""
    left_out: Counter[str] = Counter()
    judged = [*_memory(), *times_as_seen(ledger, left_out), *times_by_table(ledger, left_out), *serving_times()]
    return Accuracy(tuple(judged), left_out)


@cache
def _memory() -> tuple[Comparison, ...]:
    return tuple(_memory_of(number) for run in rows() for number in numbers(run))


def _memory_of(number: Printed) -> Comparison:
    measured, table = float(number.text) * number.unit_bytes, number.table
    return Comparison(table.gpu, "memory", table.name, str(number), measured, number.predicted, "B", number.exact)


def times_by_table(ledger: Ledger, left_out: Counter[str]) -> Iterator[Comparison]:
    """Every recorded time that a fit to other rows judges; the reasons for the others are counted in `left_out`."""
    calibrations: dict[tuple[str, str], Calibration] = {}
    for run in ledger.runs:
        source = ledger.sources[run.source]
        measured = [] if is_validation(source) else list(times(run))
        if not measured:
            continue
        try:
            model = _model(run, source, ledger, calibrations)
        except UsageError as reason:
            left_out[str(reason)] += len(measured)
            continue
        for timed in measured:
            try:
                yield _judged(timed, source, *model)
            except UsageError as reason:
                left_out[str(reason)] += 1


def _model(
    run: Run, source: Source, ledger: Ledger, calibrations: dict[tuple[str, str], Calibration]
) -> tuple[Callable[[], Program], Fit, Calibration]:
    """What a run did, and the constants that it is judged by. Raises UsageError where it cannot be judged."""
    program, fit = restated(run, source), fit_of(run, source)
    if fit is None:
        raise UsageError("no calibration is fitted to its table or kernel")
    if fit.flash and not source.gpu_id:
        raise UsageError("its GPU is not stated")
    key = (fit.name, source.name)
    if key not in calibrations:
        calibrations[key] = on_its_host(calibration_of(fit, ledger), source, ledger)
    return program, fit, calibrations[key]


def _judged(timed: Timed, source: Source, program: Callable[[], Program], fit: Fit, rates: Calibration) -> Comparison:
    machine = machine_of(source, rates)._replace(compiled_for=compiled_for(timed.run, source))
    _check(timed, fit, rates, "tf32" if machine.tf32 else timed.run.case["dtype"])
    of_machine = known(fit.name, source.name, machine.gpu.id, machine.tf32, machine.torch, machine.compiled_for)
    predicted = predicted_seconds(program(), timed.phase, source, machine, of_machine)
    what = f"{timed.run}, {timed.phase}: measured {timed.seconds * 1e3:.4g} ms, predicted {predicted * 1e3:.4g} ms"
    naive = "compiled by table" if timed.run.implementation == "compiled" else "naive by table"
    quantity = f"flash {timed.phase} time" if fit.flash else naive
    subject = timed.run.implementation if timed.run.implementation in KERNELS else source.name
    roofline = roofline_error(timed, source)
    return Comparison(source.gpu, quantity, subject, what, timed.seconds, predicted, "s", None, roofline)


def _check(timed: Timed, fit: Fit, rates: Calibration, kind: str) -> None:
    """Raises UsageError, with the reason, where a time says nothing about a fit; `kind` is of matrix products."""
    if fit.trains_on(timed):
        raise UsageError("constants are fitted to it")
    if fit.flash and timed.phase != "forward" and not IMPLEMENTATIONS[fit.implementation].backward:
        raise UsageError("this kernel's backward is not known")
    if not fit.flash and f"matmul.{kind}.values" not in rates.constants:
        raise UsageError("no constants are fitted to its type on its GPU")
    if not fit.flash and timed.run.case["seq"] < FITTED_N:
        raise UsageError(f"naive attention below n = {FITTED_N}: dispatch and L2 decide")

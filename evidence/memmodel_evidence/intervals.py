"""Intervals of expected times, from recorded ones. `python -m memmodel_evidence.intervals` writes both files.

Measured over predicted times of kernels that the host does not decide (n >= 4096), by kind of program and by where the
rates are from: of measured GPUs each table by what the others say, of the rest each GPU by others alone. The package
ships the quantiles over all tables; those without a table's rows judge that table.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from memmodel.errors import UsageError
from memmodel.files import DATA as SHIPPED
from memmodel.timing import Calibration, kernel_times
from memmodel.timing.intervals import kind_of, origin_of
from memmodel.timing.known import shipped_ids
from memmodel.timing.nearest import relation
from memmodel.timing.transfer import RELATED, completed_rates
from memmodel_evidence.as_seen import WITHOUT, itemsize, judged_as_seen, rates
from memmodel_evidence.fits import FITTED_N
from memmodel_evidence.judging import judge_others
from memmodel_evidence.programs import launches, restated
from memmodel_evidence.records import everything
from memmodel_evidence.serving_fit import quantiles
from memmodel_evidence.times import PHASES, Timed, gpu_of, machine_as_seen, predicted_seconds
from memmodel_validate.ledger import Source

_SHIPPED = Path(SHIPPED) / "time_intervals.json"
KINDS = ("eager fp32", "eager 16 bits", "compiled fp32", "compiled 16 bits", "flash")
Errors = list[tuple[str, str, str, float]]  # table, kind, origin, log of measured over predicted


def errors() -> Errors:
    """The log errors of every recorded time of naive and compiled attention on a named GPU, from n = 4096 on."""
    found: Errors = []
    for timed, source in judged_as_seen(everything()):
        if timed.run.case["seq"] >= FITTED_N:
            for calibration in _calibrations(timed, source):
                found += _error(timed, source, calibration)
    return found


def _calibrations(timed: Timed, source: Source) -> Iterator[Calibration]:
    """What is shipped without the table; and what other GPUs say, by relation."""
    gpu = gpu_of(source)
    if gpu.id in shipped_ids():
        yield rates(gpu.id, timed.run.source, itemsize(timed))
    for kind in RELATED:
        others = tuple(id_ for id_ in shipped_ids() if relation(gpu, id_) == kind)
        if others:
            yield completed_rates(gpu, None, others, itemsize(timed))


def _error(timed: Timed, source: Source, calibration: Calibration) -> Errors:
    try:
        program, machine = restated(timed.run, source)(), machine_as_seen(source, calibration)
        seconds = predicted_seconds(program, timed.phase, source, machine)
    except UsageError:
        return []
    of_phase = launches(program, PHASES[timed.phase][0])
    origin = origin_of(kernel_times(of_phase, machine))
    return [(timed.run.source, kind_of(of_phase), origin, float(np.log(timed.seconds / seconds)))]


def flash_errors() -> Errors:
    """Those of published flash kernels, whose constants are fitted on one GPU and judged there and on others."""
    where = {"H100-80GB-SXM5": "measured", "A100-80GB-SXM4": "measured"}  # GPUs of the fits
    return [
        (one.subject, "flash", where.get(one.gpu, "other"), float(np.log(one.measured / one.predicted)))
        for one in judge_others(everything()).comparisons
        if one.quantity.startswith("flash")
    ]


def table_of(found: Errors) -> dict[str, dict[str, tuple[float, float]]]:
    """Factors (low, high) by kind and origin. Where no row tells, those of the next farther origin, or kind, hold."""
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for kind in KINDS:
        like = kind if any(k == kind for _, k, _, _ in found) else kind.replace("16 bits", "fp32")
        of_origin = {o: [e for _, k, origin, e in found if (k, origin) == (like, o)] for o in ("measured", *RELATED)}
        rows = of_origin["other"] or of_origin["measured"]
        farthest = quantiles(np.array(rows))
        table[kind] = {o: quantiles(np.array(es)) if len(es) >= 20 else farthest for o, es in of_origin.items()}
    return table


def main() -> None:
    """Write the intervals that are shipped, and those without each table."""
    found = errors() + flash_errors()
    _SHIPPED.write_text(json.dumps(table_of(found), indent=1) + "\n")
    tables = sorted({table for table, kind, _, _ in found if kind != "flash"})
    left = {table: table_of([one for one in found if one[0] != table]) for table in tables}
    WITHOUT.write_text(json.dumps(left, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Intervals of expected times, from recorded ones. `python -m memmodel_evidence.intervals` writes both files.

Measured over predicted times of kernels that the host does not decide (n >= 4096), by kind of program and by where the
rates are from: of measured GPUs each table by what the others say, of the rest each GPU by others alone. The package
ships the quantiles over all tables; those without a table's rows judge that table.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memmodel.errors import UsageError
from memmodel.files import DATA as SHIPPED
from memmodel.timing import Calibration, kernel_times
from memmodel.timing.intervals import kind_of, origin_of
from memmodel.timing.known import shipped_ids
from memmodel.timing.nearest import relation
from memmodel.timing.transfer import RELATED, completed_rates
from memmodel_evidence.as_seen import WITHOUT, rates
from memmodel_evidence.fits import FITTED_N
from memmodel_evidence.hosts import hosts_without
from memmodel_evidence.judging import judge_others
from memmodel_evidence.programs import launches, restated
from memmodel_evidence.records import everything
from memmodel_evidence.serving_fit import COVERAGE, ENDLESS, intervals
from memmodel_evidence.times import PHASES, Timed, gpu_of, machine_as_seen, predicted_seconds
from memmodel_evidence.unseen import itemsize, judged_as_seen
from memmodel_validate.ledger import Source

_SHIPPED = Path(SHIPPED) / "time_intervals.json"
KINDS = ("eager fp32", "eager 16 bits", "compiled fp32", "compiled 16 bits", "flash")
ORIGINS = ("measured", *RELATED)
_ENOUGH = 20  # rows: fewer are judged by those of the next origin
_BANDED = 6  # tables, from which on short and long times have intervals of their own, as near as may be


class Error(NamedTuple):
    """The log of measured over predicted `seconds` of a table's row, with its kind and the origin of its rates."""

    table: str
    kind: str
    origin: str
    seconds: float
    log: float


Bands = list[tuple[float, float, float]]


def errors() -> list[Error]:
    """The log errors of every recorded time of naive and compiled attention on a named GPU, from n = 4096 on."""
    found: list[Error] = []
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


def _error(timed: Timed, source: Source, calibration: Calibration) -> list[Error]:
    try:
        program, machine = restated(timed.run, source)(), machine_as_seen(source, calibration)
        machine = machine._replace(told=hosts_without(source.name))
        seconds = predicted_seconds(program, timed.phase, source, machine)
    except UsageError:
        return []
    of_phase = launches(program, PHASES[timed.phase][0])
    origin = origin_of(kernel_times(of_phase, machine))
    return [Error(timed.run.source, kind_of(of_phase), origin, seconds, float(np.log(timed.seconds / seconds)))]


def flash_errors() -> list[Error]:
    """Those of published flash kernels, whose constants are fitted on one GPU and judged there and on others."""
    where = {"H100-80GB-SXM5": "measured", "A100-80GB-SXM4": "measured"}  # GPUs of the fits
    return [
        Error(
            one.subject,
            "flash",
            where.get(one.gpu, "other"),
            one.predicted,
            float(np.log(one.measured / one.predicted)),
        )
        for one in judge_others(everything()).comparisons
        if one.quantity.startswith("flash")
    ]


def table_of(found: list[Error]) -> dict[str, dict[str, Bands]]:
    """Bands by kind and origin.

    Where no row tells, those of the next farther origin, or of the kind in fp32, hold. Few tables do not show how GPUs
    differ: the ends of transferred rates are then no nearer than those of the kind in fp32.
    """
    table: dict[str, dict[str, Bands]] = {}
    for kind in KINDS:
        like = kind.replace("16 bits", "fp32")
        own = kind if any(one.kind == kind for one in found) else like
        rows = {origin: _rows(found, own, origin) for origin in ORIGINS}
        alike = {origin: _rows(found, own if origin == "measured" else like, origin) for origin in ORIGINS}
        table[kind] = {origin: _bands(rows[origin], alike[origin]) for origin in ORIGINS}
    return table


def _rows(found: list[Error], kind: str, origin: str) -> list[Error]:
    """The rows of a kind and an origin; those of the farthest origin that there is where these are too few."""
    for candidate in (origin, "other", "measured"):
        rows = [one for one in found if (one.kind, one.origin) == (kind, candidate)]
        if len(rows) >= _ENOUGH:
            return rows
    return rows


def _bands(rows: list[Error], alike: list[Error]) -> Bands:
    seconds, logs = np.array([one.seconds for one in rows]), np.array([one.log for one in rows])
    if len({one.table for one in rows}) >= _BANDED:
        return intervals(seconds, logs)
    ends = [_each_side(logs), _each_side(np.array([one.log for one in alike]))]
    return [(ENDLESS, min(low for low, _ in ends), max(high for _, high in ends))]


def _each_side(logs: Any) -> tuple[float, float]:
    """Factors with as many errors below as above: of few tables, the next may be off either way."""
    outside = (1 - COVERAGE) / 2
    level = min(1.0, np.ceil((1 - outside) * (len(logs) + 1)) / len(logs))
    low, high = -np.quantile(-logs, level, method="higher"), np.quantile(logs, level, method="higher")
    return round(float(np.exp(min(low, 0.0))), 4), round(float(np.exp(max(high, 0.0))), 4)


def main() -> None:
    """Write the intervals that are shipped, and those without each table."""
    found = errors() + flash_errors()
    _SHIPPED.write_text(json.dumps(table_of(found), indent=1) + "\n")
    tables = sorted({one.table for one in found if one.kind != "flash"})
    left = {table: table_of([one for one in found if one.table != table]) for table in tables}
    WITHOUT.write_text(json.dumps(left, indent=1) + "\n")


if __name__ == "__main__":
    main()

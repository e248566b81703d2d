"""Intervals of expected times, from recorded ones. `python -m memmodel_evidence.intervals` writes both files.

How far kernels' times are off beside what hosts explain, by kind of program and by where the
rates are from: of measured GPUs each table by what the others say, of the rest each GPU by others alone. The package
ships the factors over all tables; those without a table's rows, or a GPU's, judge that table and that GPU held out.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memmodel.base.errors import UsageError
from memmodel.base.files import DATA as SHIPPED
from memmodel.timing import Calibration, Machine, kernel_times
from memmodel.timing.host import Hosts, around
from memmodel.timing.intervals import STEP, kind_of, origin_of
from memmodel.timing.known import shipped_ids
from memmodel.timing.nearest import relation
from memmodel.timing.transfer import RELATED
from memmodel_evidence.as_seen import WITHOUT, rates, rates_elsewhere
from memmodel_evidence.bands import ENDLESS, Bands, bands_of, factor_around
from memmodel_evidence.fits import DISPATCH_N, FITTED_N
from memmodel_evidence.hosts import host_of_script, hosts_without
from memmodel_evidence.judging import times_by_table
from memmodel_evidence.models_judging import step_factor
from memmodel_evidence.programs import launches, restated
from memmodel_evidence.records import everything
from memmodel_evidence.times import PHASES, Part, Timed, gpu_of, interval_of, machine_as_seen, parts_of, seconds_of
from memmodel_evidence.unseen import itemsize, judged_as_seen
from memmodel_validate.comparison import Comparison
from memmodel_validate.ledger import Source

_SHIPPED = Path(SHIPPED) / "time_intervals.json"
KINDS = ("eager fp32", "eager 16 bits", "compiled fp32", "compiled 16 bits", "flash")
_MOST, _PRECISE = 3.0, 1e-4  # of the log of a factor
ORIGINS = ("measured", *RELATED)
_ENOUGH = 6  # tables, from which on a kind has intervals of its own


class Error(NamedTuple):
    """How far off a table's row is, with its kind, the origin of its rates and the predicted `seconds`.

    `log`: of the factor of kernels' times whose interval just reaches what was measured, beside the spread of hosts: 0
    where hosts alone explain it, which is not to count twice.
    """

    table: str
    gpu: str
    kind: str
    origin: str
    seconds: float
    log: float


def errors() -> list[Error]:
    """The log errors of every recorded time of naive and compiled attention on a named GPU whose host may be known."""
    found: list[Error] = []
    for timed, source in judged_as_seen(everything()):
        hosts = _hosts(timed, source)
        if hosts is not None:
            for calibration in _calibrations(timed, source):
                found += _error(timed, source, calibration, hosts)
    return found


def _hosts(timed: Timed, source: Source) -> Hosts | None:
    """Those that a row's interval is to allow for: any, but of a short call its script's, where that is known."""
    if timed.run.case["seq"] >= FITTED_N:
        return hosts_without(source.name)
    host = host_of_script(source.name) if timed.run.case["seq"] != DISPATCH_N else None
    return host and around(host)


def _calibrations(timed: Timed, source: Source) -> Iterator[Calibration]:
    """What is shipped without the table; and what other GPUs say, by relation."""
    gpu = gpu_of(source)
    if gpu.id in shipped_ids():
        yield rates(gpu.id, timed.run.source, itemsize(timed))
    for kind in RELATED:
        others = tuple(id_ for id_ in shipped_ids() if relation(gpu, id_) == kind)
        if others:
            yield rates_elsewhere(gpu.id, itemsize(timed), others)


def _error(timed: Timed, source: Source, calibration: Calibration, hosts: Hosts) -> list[Error]:
    try:
        program, machine = restated(timed.run, source)(), machine_as_seen(timed.run, source, calibration)
        machine = machine._replace(known_hosts=hosts)
        parts = parts_of(program, timed.phase, source, machine)
    except UsageError:
        return []
    of_phase = launches(program, PHASES[timed.phase][0])
    kind, origin = kind_of(of_phase), origin_of(kernel_times(of_phase, machine))
    error = needed(parts, machine, timed.seconds)
    return [Error(timed.run.source, source.gpu_id, kind, origin, seconds_of(parts, machine), error)]


def needed(parts: list[Part], machine: Machine, measured: float) -> float:
    """The log of the least factor with which the interval of some parts holds what was measured, by bisection."""

    def holds(log: float) -> bool:
        low, high = interval_of(parts, machine, lambda *_: math.exp(log))
        return low <= measured <= high

    if holds(0.0):
        return 0.0
    least, most = 0.0, _MOST
    while most - least > _PRECISE:
        middle = (least + most) / 2
        least, most = (least, middle) if holds(middle) else (middle, most)
    return most


def flash_errors() -> list[Error]:
    """Those of published flash kernels, whose constants are fitted on one GPU and judged there and on others."""
    where = {"H100-80GB-SXM5": "measured", "A100-80GB-SXM4": "measured"}  # GPUs of the fits
    return [
        Error(
            one.subject,
            one.gpu,
            "flash",
            where.get(one.gpu, "other"),
            one.predicted,
            float(np.log(one.measured / one.predicted)),
        )
        for one in times_by_table(everything(), Counter())
        if one.quantity.startswith("flash")
    ]


def spread_of_hosts(seen: Iterable[Comparison]) -> float:
    """The factor within which short calls are of what is expected with their script's host told (`host.SPREAD`)."""
    told = (one for one in seen if one.quantity == "short time, host told")
    return factor_around(np.log([one.measured / one.predicted for one in told]))


def table_of(found: list[Error]) -> dict[str, dict[str, Bands]]:
    """Bands by kind and origin."""
    return {kind: {origin: _bands(_rows(found, kind, origin)) for origin in ORIGINS} for kind in KINDS}


def _bands(rows: list[Error]) -> Bands:
    return bands_of(np.array([one.seconds for one in rows]), np.array([one.log for one in rows]))


def _rows(found: list[Error], kind: str, origin: str) -> list[Error]:
    """The rows of a kind and an origin; those of its form in both types where a few tables do not show how GPUs differ.

    Where there are none at all, those of the next farther origin.
    """
    for candidate in (origin, "other", "measured"):
        of_origin = [one for one in found if one.origin == candidate]
        own = [one for one in of_origin if one.kind == kind]
        alike = [one for one in of_origin if one.kind.split()[0] == kind.split()[0]]
        if len({one.table for one in own}) >= _ENOUGH:
            return own
        if alike:
            return alike
    raise ValueError(f"no recorded time is {kind}")


def main() -> None:
    """Write the intervals that are shipped, and those without each table and each GPU."""
    found = errors() + flash_errors()
    of_steps = {STEP: {origin: [(ENDLESS, step_factor())] for origin in ORIGINS}}  # too few rows to tell times apart
    _SHIPPED.write_text(json.dumps(table_of(found) | of_steps, indent=1) + "\n")
    programs = [one for one in found if one.kind != "flash"]
    left = {name: table_of([e for e in found if e.table != name]) for name in sorted({e.table for e in programs})}
    left |= {gpu: table_of([e for e in found if e.gpu != gpu]) for gpu in sorted({e.gpu for e in programs})}
    WITHOUT.write_text(json.dumps(left, indent=1) + "\n")


if __name__ == "__main__":
    main()

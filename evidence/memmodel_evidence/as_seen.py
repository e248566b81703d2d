"""Recorded times of naive and compiled attention as a user sees them: what `predict` gives with what is shipped.

A table whose rows a GPU's constants are fitted to is judged by the fit that leaves it out, or by the rows that no
constant was fitted to where the GPU has no other table. The host is whatever host: nobody told `predict` whose. Short
calls are judged once more with the host that the script's rows at n = 256 tell, as by `--host`.

Long calls are judged once more as if nobody had measured their GPU: by the rates of others alone, with shares of
compiled kernels and intervals to which none of its GPU's tables contributed.
"""

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from memmodel.base.errors import UsageError
from memmodel.gpus import load_gpu
from memmodel.timing import Calibration, Machine
from memmodel.timing.host import around
from memmodel.timing.intervals import factor_of, in_table
from memmodel.timing.transfer import completed_rates
from memmodel_evidence.compiled import constants_without
from memmodel_evidence.fits import DISPATCH_N, FITTED_N, others_than
from memmodel_evidence.hosts import host_of_script, hosts_without
from memmodel_evidence.programs import STANDARD, program_of
from memmodel_evidence.records import DATA, everything
from memmodel_evidence.times import (
    Factors,
    Part,
    Timed,
    interval_of,
    known,
    machine_as_seen,
    parts_of,
    roofline_error,
    seconds_of,
)
from memmodel_evidence.unseen import itemsize, judged_as_seen, rates_of_gpu
from memmodel_validate.comparison import Comparison
from memmodel_validate.ledger import Ledger, Source

WITHOUT = DATA / "intervals_without.json"


def times_as_seen(ledger: Ledger, left_out: Counter[str]) -> Iterator[Comparison]:
    """Every time of naive and compiled attention on a named GPU, as it is and once more (see above)."""
    for timed, source in judged_as_seen(ledger):
        try:
            yield from _judged(timed, source)
        except UsageError as reason:
            left_out[f"as seen: {reason}"] += 1


def _judged(timed: Timed, source: Source) -> Iterator[Comparison]:
    quantity, size, roofline = quantity_of(timed), itemsize(timed), roofline_error(timed, source)
    machine = machine_as_seen(timed.run, source, rates(source.gpu_id, source.name, size))._replace(
        known_hosts=hosts_without(source.name)
    )
    parts = _parts(timed, source, machine, source.name)
    yield _compared(timed, source, machine, parts, quantity, source.name, roofline)
    if quantity in _TRANSFERRED:
        machine = machine._replace(calibration=rates_elsewhere(source.gpu_id, size))
        parts = _parts(timed, source, machine, "")
        yield _compared(timed, source, machine, parts, _TRANSFERRED[quantity], source.gpu_id, roofline)
    elif (host := host_of_script(source.name)) and timed.run.case["seq"] != DISPATCH_N:
        machine = machine._replace(known_hosts=around(host))
        yield _compared(timed, source, machine, parts, "short time, host told", source.name, roofline)


def _parts(timed: Timed, source: Source, machine: Machine, without: str) -> list[Part]:
    """What a time holds, on a machine whose rates are without a source's."""
    of_machine = known(machine.gpu.id, without, itemsize(timed), machine.tf32, machine.torch, machine.compiled_for)
    return parts_of(program_of(timed.run, source), timed.phase, source, machine, of_machine)


@cache
def rates(gpu_id: str, source: str, itemsize: int) -> Calibration:
    """`rates_of_gpu`, with the rates of compiled kernels by all tables but the source's."""
    return _with_compiled(rates_of_gpu(gpu_id, source, itemsize), source)


@cache
def rates_elsewhere(gpu_id: str, itemsize: int, among: tuple[str, ...] | None = None) -> Calibration:
    """The rates of a GPU as if nobody had measured it: those of all others, or `among` some."""
    gpu, others = load_gpu(gpu_id), others_than(gpu_id) if among is None else among
    return _with_compiled(completed_rates(gpu, None, others, itemsize), *tables_on(gpu_id))


def _with_compiled(found: Calibration, *sources: str) -> Calibration:
    return found._replace(constants={**found.constants, **constants_without(*sources)})


@cache
def tables_on(gpu_id: str) -> tuple[str, ...]:
    """The sources on record whose GPU is this one."""
    return tuple(name for name, source in everything().sources.items() if source.gpu_id == gpu_id)


_TRANSFERRED = {
    "naive fp32 time": "transferred fp32 time",
    "naive 16-bit time": "transferred 16-bit time",
    "compiled time": "transferred compiled time",
}


def quantity_of(timed: Timed) -> str:
    """The quantity that a time counts to: short ones are the host's."""
    short = timed.run.case["seq"] < FITTED_N
    if timed.run.implementation == "compiled":
        return "compiled short time" if short else "compiled time"
    if short:
        return "naive short time"
    return "naive 16-bit time" if itemsize(timed) == 2 else "naive fp32 time"


def factors_without(name: str) -> Factors:
    """The factors of intervals that rows without a source's, or a GPU's, give (`memmodel_evidence.intervals`)."""
    table = _left_out().get(name)
    return factor_of if table is None else lambda kind, origin, seconds: in_table(table[kind], origin, seconds)


@cache
def _left_out() -> Any:
    return json.loads(WITHOUT.read_text()) if WITHOUT.exists() else {}


def _compared(
    timed: Timed,
    source: Source,
    machine: Machine,
    parts: list[Part],
    quantity: str,
    without: str,
    roofline: float | None,
) -> Comparison:
    predicted, (low, high) = seconds_of(parts, machine), interval_of(parts, machine, factors_without(without))
    what = f"{timed.run}, {timed.phase}: measured {timed.seconds * 1e3:.4g} ms, predicted {predicted * 1e3:.4g} ms"
    subject = STANDARD if timed.run.implementation == STANDARD else source.name
    return Comparison(source.gpu, quantity, subject, what, timed.seconds, predicted, "s", None, roofline, low, high)

"""Recorded times of naive and compiled attention as a user sees them: what `predict` gives with what is shipped.

A table whose rows a GPU's constants are fitted to is judged by the fit that leaves it out, or by the rows that no
constant was fitted to where the GPU has no other table. The host is whatever host: nobody told `predict` whose.
"""

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from memmodel.errors import UsageError
from memmodel.timing import Calibration, Constant, Machine
from memmodel.timing.intervals import factors, in_band
from memmodel_evidence.compiled import shares_without
from memmodel_evidence.fits import FITTED_N
from memmodel_evidence.hosts import hosts_without
from memmodel_evidence.programs import STANDARD, restated
from memmodel_evidence.records import DATA
from memmodel_evidence.times import Factors, Timed, gpu_of, interval_of, machine_as_seen, predicted_seconds
from memmodel_evidence.unseen import itemsize, judged_as_seen, rates_of_gpu
from memmodel_validate.comparison import Comparison
from memmodel_validate.ledger import Ledger, Source

WITHOUT = DATA / "intervals_without.json"


def times_as_seen(ledger: Ledger, left_out: Counter[str]) -> Iterator[Comparison]:
    """Every time of naive and compiled attention on a named GPU."""
    for timed, source in judged_as_seen(ledger):
        try:
            yield _judged(timed, source, rates(source.gpu_id, source.name, itemsize(timed)))
        except UsageError as reason:
            left_out[f"as seen: {reason}"] += 1


@cache
def rates(gpu_id: str, source: str, itemsize: int) -> Calibration:
    """`rates_of_gpu`, with the share of the bandwidth that compiled kernels reach in all tables but the source's."""
    found = rates_of_gpu(gpu_id, source, itemsize)
    forward, backward = shares_without(source).values()
    shares = {"fused": Constant(forward, "other tables"), "fused_backward": Constant(backward, "other tables")}
    return found._replace(constants={**found.constants, **shares})


def quantity_of(timed: Timed) -> str:
    """The quantity that a time counts to: short ones are the host's."""
    short = timed.run.case["seq"] < FITTED_N
    if timed.run.implementation == "compiled":
        return "compiled short time" if short else "compiled time"
    if short:
        return "naive short time"
    return "naive 16-bit time" if itemsize(timed) == 2 else "naive fp32 time"


def factors_without(source: str) -> Factors:
    """The factors of intervals that rows of other tables give (`memmodel_evidence.intervals`)."""
    table = _left_out_tables().get(source)
    return factors if table is None else lambda kind, origin, seconds: in_band(table[kind][origin], seconds)


@cache
def _left_out_tables() -> Any:
    return json.loads(WITHOUT.read_text()) if WITHOUT.exists() else {}


def _judged(timed: Timed, source: Source, calibration: Calibration) -> Comparison:
    program, machine = restated(timed.run, source)(), machine_as_seen(source, calibration)
    machine = machine._replace(told=hosts_without(source.name))
    predicted = predicted_seconds(program, timed.phase, source, machine)
    low, high = interval_of(program, timed.phase, source, machine, factors_without(source.name))
    try:
        bound = predicted_seconds(program, timed.phase, source, Machine(gpu_of(source), None, machine.tf32))
        roofline = abs(bound / timed.seconds - 1)
    except UsageError:
        roofline = None
    what = f"{timed.run}, {timed.phase}: measured {timed.seconds * 1e3:.4g} ms, predicted {predicted * 1e3:.4g} ms"
    subject = STANDARD if timed.run.implementation == STANDARD else source.name
    return Comparison(
        source.gpu, quantity_of(timed), subject, what, timed.seconds, predicted, "s", None, roofline, low, high
    )

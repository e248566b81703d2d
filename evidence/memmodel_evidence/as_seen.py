"""Recorded times of naive and compiled attention as a user sees them: what `predict` gives with what is shipped.

A table whose rows a GPU's constants are fitted to is judged by the fit that leaves it out, or by the rows that no
constant was fitted to where the GPU has no other table. The host is whatever host: nobody told `predict` whose.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from memmodel.dtypes import dtype
from memmodel.errors import UsageError
from memmodel.timing import Calibration, Machine
from memmodel.timing.intervals import factors
from memmodel.timing.known import community, shipped_ids
from memmodel.timing.transfer import completed_rates
from memmodel_evidence.calibrations import MADE_OF, shipped_calibration
from memmodel_evidence.fit import stored
from memmodel_evidence.fits import FITS, FITTED_N, LEFT_OUT, Fit
from memmodel_evidence.programs import STANDARD, restated
from memmodel_evidence.records import DATA
from memmodel_evidence.times import Timed, gpu_of, interval_of, machine_as_seen, predicted_seconds, times
from memmodel_validate.comparison import Comparison
from memmodel_validate.ledger import Ledger, Source

WITHOUT = DATA / "intervals_without.json"
_FITS = {fit.name: fit for fit in FITS}
_IMPLEMENTATIONS = (STANDARD, "naive", "naive-by-hand", "compiled")


def times_as_seen(ledger: Ledger, left_out: Counter[str]) -> Iterator[Comparison]:
    """Every time of naive and compiled attention on a named GPU."""
    for timed, source in judged_as_seen(ledger):
        try:
            yield _judged(timed, source, rates(source.gpu_id, source.name, itemsize(timed)))
        except UsageError as reason:
            left_out[f"as seen: {reason}"] += 1


def judged_as_seen(ledger: Ledger) -> Iterator[tuple[Timed, Source]]:
    """Every time of naive and compiled attention on a named GPU that no constant was fitted to."""
    for run in ledger.runs:
        source = ledger.sources[run.source]
        if source.gpu_id not in ("", "cpu") and run.implementation in _IMPLEMENTATIONS:
            yield from ((timed, source) for timed in times(run) if not _fitted_to(timed))


def _fitted_to(timed: Timed) -> bool:
    """Whether a constant that is shipped is fitted to a row, and no fit leaves its table out."""
    gpu = [_FITS[name] for fits in MADE_OF.values() for name in fits]
    return any(fit.trains_on(timed) for fit in gpu) and not any(timed.run.source in fit.judged for fit in LEFT_OUT)


@cache
def rates(gpu_id: str, source: str, itemsize: int) -> Calibration:
    """What is shipped for a GPU, fitted without a source's rows where other sources remain."""
    from memmodel.gpus import load_gpu

    own = community(gpu_id)
    if gpu_id in MADE_OF:
        own = shipped_calibration(gpu_id, [stored(fit.name) for fit in fits_without(gpu_id, source)])
    return completed_rates(load_gpu(gpu_id), own, tuple(shipped_ids()), itemsize)


def fits_without(gpu_id: str, source: str) -> list[Fit]:
    """The fits of a GPU; for each that a source is in, the one that leaves it out, where there is one."""
    return [_without(_FITS[name], source) for name in MADE_OF.get(gpu_id, ())]


def _without(fit: Fit, source: str) -> Fit:
    return next((one for one in LEFT_OUT if one.judged == (source,) and one.name.startswith(f"{fit.name}.")), fit)


def quantity_of(timed: Timed) -> str:
    """The quantity that a time counts to: short ones are the host's."""
    short = timed.run.case["seq"] < FITTED_N
    if timed.run.implementation == "compiled":
        return "compiled short time" if short else "compiled time"
    if short:
        return "naive short time"
    return "naive 16-bit time" if itemsize(timed) == 2 else "naive fp32 time"


def itemsize(timed: Timed) -> int:
    """Bytes of an element of its tensors."""
    return dtype(timed.run.case["dtype"]).itemsize


def factors_without(source: str) -> Callable[[str, str], tuple[float, float]]:
    """The factors of intervals that rows of other tables give (`memmodel_evidence.intervals`)."""
    table = _left_out_tables().get(source)
    return factors if table is None else lambda kind, origin: tuple(table[kind][origin])


@cache
def _left_out_tables() -> Any:
    return json.loads(WITHOUT.read_text()) if WITHOUT.exists() else {}


def _judged(timed: Timed, source: Source, calibration: Calibration) -> Comparison:
    program, machine = restated(timed.run, source)(), machine_as_seen(source, calibration)
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

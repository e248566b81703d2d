"""Rows that no shipped constant was fitted to, and the rates that a GPU has without the rows of a table."""

from collections.abc import Iterator
from functools import cache

from memmodel.base.dtypes import dtype
from memmodel.gpus import load_gpu
from memmodel.timing import Calibration
from memmodel.timing.known import community, shipped_ids
from memmodel.timing.transfer import completed_rates
from memmodel_evidence.calibrations import MADE_OF, shipped_calibration
from memmodel_evidence.fit import stored
from memmodel_evidence.fits import FITS, LEFT_OUT, Fit
from memmodel_evidence.programs import STANDARD
from memmodel_evidence.times import Timed, times
from memmodel_validate.ledger import Ledger, Source

_FITS = {fit.name: fit for fit in FITS}
_SHIPPED = [_FITS[name] for fits in MADE_OF.values() for name in fits]
_IMPLEMENTATIONS = (STANDARD, "naive", "naive-by-hand", "compiled")


def judged_as_seen(ledger: Ledger) -> Iterator[tuple[Timed, Source]]:
    """Every time of naive and compiled attention on a named GPU that no constant was fitted to."""
    for run in ledger.runs:
        source = ledger.sources[run.source]
        if source.gpu_id not in ("", "cpu") and run.implementation in _IMPLEMENTATIONS:
            yield from ((timed, source) for timed in times(run) if not _fitted_to(timed))


def _fitted_to(timed: Timed) -> bool:
    """Whether a constant that is shipped is fitted to a row, and no fit leaves its table out."""
    return any(fit.trains_on(timed) for fit in _SHIPPED) and not any(timed.run.source in fit.judged for fit in LEFT_OUT)


@cache
def rates_of_gpu(gpu_id: str, source: str, itemsize: int) -> Calibration:
    """What is shipped for a GPU, fitted without a source's rows where other sources remain."""
    own = community(gpu_id)
    if gpu_id in MADE_OF:
        own = shipped_calibration(gpu_id, [stored(fit.name) for fit in fits_without(gpu_id, source)])
    return completed_rates(load_gpu(gpu_id), own, tuple(shipped_ids()), itemsize)


def fits_without(gpu_id: str, source: str) -> list[Fit]:
    """The fits of a GPU; for each that a source is in, the one that leaves it out, where there is one."""
    return [_without(_FITS[name], source) for name in MADE_OF.get(gpu_id, ())]


def _without(fit: Fit, source: str) -> Fit:
    return next((one for one in LEFT_OUT if one.judged == (source,) and one.name.startswith(f"{fit.name}.")), fit)


def itemsize(timed: Timed) -> int:
    """Bytes of an element of its tensors."""
    return dtype(timed.run.case["dtype"]).itemsize

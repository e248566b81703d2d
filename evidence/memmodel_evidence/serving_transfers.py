"""Serving kernels of a GPU by the constants of others, and the intervals of such times."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from memmodel.base.errors import UsageError
from memmodel.timing.nearest import relation
from memmodel.timing.serving.kernels import ServingKernel, measured_gpus, serving_kernel
from memmodel.timing.transfer import RELATED
from memmodel_evidence.bands import Bands, bands_of
from memmodel_evidence.serving import Table, expected, kernel_tables


class _Transferred(NamedTuple):
    """The times of a table by a kernel of another GPU, with their log errors."""

    gpu: str
    phase: str
    relation: str
    seconds: Any
    errors: Any


def kernel_elsewhere(table: Table, related: tuple[str, ...] = tuple(RELATED)) -> ServingKernel | None:
    """A table's kernel as the GPU most like its own has it, of those so related; None where none has it."""
    others = tuple(id_ for id_ in measured_gpus() if relation(table.gpu, id_) in related)
    try:
        return serving_kernel(table.gpu, table.kernel, others) if others else None
    except UsageError:
        return None


@cache
def _transferred() -> list[_Transferred]:
    """Every table from within its architecture and from without, where another GPU has its kernel."""
    found = []
    for table in kernel_tables():
        for kind in RELATED:
            kernel = kernel_elsewhere(table, (kind,))
            if kernel is not None:
                seconds = expected(table, kernel)
                found.append(_Transferred(table.gpu.id, table.phase, kind, seconds, np.log(table.seconds / seconds)))
    return found


@cache
def transfers(without: str = "") -> dict[str, dict[str, Bands]]:
    """Bands by phase and relation: of every GPU's rows, predicted from the GPU most like it; or of all GPUs but one."""
    return {phase: {kind: _bands(phase, kind, without) for kind in RELATED} for phase in ("prefill", "decode")}


def _bands(phase: str, kind: str, without: str) -> Bands:
    rows = [one for one in _transferred() if (one.phase, one.relation) == (phase, kind) and one.gpu != without]
    return bands_of(*(np.concatenate([getattr(one, name) for one in rows]) for name in ("seconds", "errors")))

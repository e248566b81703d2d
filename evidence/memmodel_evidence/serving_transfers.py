"""Serving kernels of a GPU by the constants of others, and the spreads of such times."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from memmodel.base.errors import UsageError
from memmodel.timing.nearest import relation
from memmodel.timing.serving.kernels import ServingKernel, measured_gpus, serving_kernel
from memmodel.timing.transfer import RELATED
from memmodel_evidence.bands import spreads_of
from memmodel_evidence.serving import Table, expected, kernel_tables


class _Transferred(NamedTuple):
    """The shares of the parts of a table's times by a kernel of another GPU, with their log errors."""

    gpu: str
    phase: str
    relation: str
    shares: dict[str, Any]
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
                parts = expected(table, kernel)
                errors = np.log(table.seconds / parts.seconds)
                found.append(_Transferred(table.gpu.id, table.phase, kind, parts.shares, errors))
    return found


@cache
def transfers(without: str = "") -> dict[str, dict[str, dict[str, float]]]:
    """Spreads by phase and relation: of every GPU's rows by the GPU most like it, or of all GPUs but one."""
    return {phase: {kind: _spreads(phase, kind, without) for kind in RELATED} for phase in ("prefill", "decode")}


def _spreads(phase: str, kind: str, without: str) -> dict[str, float]:
    rows = [one for one in _transferred() if (one.phase, one.relation) == (phase, kind) and one.gpu != without]
    shares = {name: np.concatenate([one.shares[name] for one in rows]) for name in rows[0].shares}
    return spreads_of(shares, np.concatenate([one.errors for one in rows]))

"""Measured times of serving kernels beside those that `predict` expects, on shapes that no constant was fitted to."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from memmodel.timing.serving.chip import chip_of
from memmodel.timing.serving.kernels import ServingKernel, serving_kernel
from memmodel.timing.serving.parts import bytes_of_a_key, bytes_of_queries
from memmodel_evidence.serving import Table, expected, kernel_tables
from memmodel_evidence.serving_transfers import kernel_elsewhere, transfers
from memmodel_validate.comparison import Comparison


def serving_times() -> Iterator[Comparison]:
    """Every judged row of every kernel, by the constants that are shipped; and by those of other GPUs alone."""
    for table in (table.where(table.judged) for table in kernel_tables()):
        kernels = {"serving": serving_kernel(table.gpu, table.kernel), "transferred": kernel_elsewhere(table)}
        names = list(table.names())
        found = [
            _judged(table, names, of, f"{basis} {table.phase} time") for basis, of in kernels.items() if of is not None
        ]
        for row in zip(*found, strict=True):
            yield from row


def _judged(table: Table, names: list[str], kernel: ServingKernel, quantity: str) -> Iterator[Comparison]:
    parts, roofline = expected(table, kernel), _roofline(table)
    seconds = parts.seconds
    by_others = None if kernel.relation == "measured" else transfers(table.gpu.id)  # without the GPU that is judged
    factor = np.exp(kernel.spread(table.phase, parts, by_others))
    columns = (table.seconds, seconds, np.abs(roofline / table.seconds - 1), seconds / factor, seconds * factor)
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    for name, measured, predicted, off, low, high in rows:
        what = f"{name}: measured {measured * 1e3:.4g} ms, predicted {predicted * 1e3:.4g} ms"
        numbers = (measured, _short(predicted), "s", None, _short(off), _short(low), _short(high))
        yield Comparison(table.gpu.name, quantity, table.kernel, what, *numbers)


def _short(number: float) -> float:
    return float(f"{number:.4g}")  # the package ships thousands of these


def _roofline(table: Table) -> Any:
    """Products at the listed peak, or all bytes once at the listed bandwidth."""
    case, chip = table.case, chip_of(table.gpu)
    flops = 2 * case.batch * case.heads * (case.head_dim + case.value_dim) * case.mask.pairs(case.seq, case.kv_seq)
    moved = bytes_of_queries(case) + bytes_of_a_key(case) * case.kv_seq
    return np.maximum(flops / (chip.sms * chip.clock * chip.flop_per_clock), moved / chip.bandwidth)

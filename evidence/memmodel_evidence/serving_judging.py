"""Measured times of serving kernels beside those that `predict` expects, on shapes that no constant was fitted to."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from memmodel.timing.serving.chip import chip_of
from memmodel.timing.serving.kernels import serving_kernel
from memmodel.timing.serving.parts import bytes_of_a_key, bytes_of_queries
from memmodel_evidence.serving import Table, expected, interval, kernel_tables
from memmodel_validate.comparison import Comparison


def serving_times() -> Iterator[Comparison]:
    """Every judged row of every kernel, by the constants that are shipped."""
    for table in kernel_tables():
        yield from _judged(table.where(table.judged))


def _judged(table: Table) -> Iterator[Comparison]:
    kernel = serving_kernel(table.gpu, table.kernel)
    seconds = expected(table, kernel)
    low, high = interval(table, kernel, seconds)
    roofline = np.abs(_roofline(table) / table.seconds - 1)
    for row, measured in enumerate(table.seconds.tolist()):
        what = f"{table.named(row)}: measured {measured * 1e3:.4g} ms, predicted {seconds[row] * 1e3:.4g} ms"
        yield Comparison(
            table.gpu.name,
            f"serving {table.phase} time",
            table.kernel,
            what,
            measured,
            _short(seconds[row]),
            "s",
            roofline=_short(roofline[row]),
            low=_short(low[row]),
            high=_short(high[row]),
        )


def _short(number: float) -> float:
    return float(f"{number:.6g}")  # the package ships thousands of these


def _roofline(table: Table) -> Any:
    """Products at the listed peak, or all bytes once at the listed bandwidth."""
    case, chip = table.case, chip_of(table.gpu)
    flops = 2 * case.batch * case.heads * (case.head_dim + case.value_dim) * case.mask.pairs(case.seq, case.kv_seq)
    moved = bytes_of_queries(case) + bytes_of_a_key(case) * case.kv_seq
    return np.maximum(flops / (chip.sms * chip.clock * chip.flop_per_clock), moved / chip.bandwidth)

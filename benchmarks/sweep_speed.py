"""How many configurations a sweep evaluates per second on one core: live peak, saved bytes, FLOPs and HBM bytes.

Beside it stands NumPy, which evaluates the closed forms of the same four quantities on the same columns, in blocks of
the same length: what a sweep would take that knew its formulas and checked nothing. An argument is the number of
configurations.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from sympy import Max, Symbol, lambdify

from memmodel.attention.case import SIZES, make_case
from memmodel.closed_forms import SYMBOLS, formulas
from memmodel.sweeps import _BLOCK, Column, sweep

COUNT = 1_000_000
RUNS = 5
ALGORITHMS = ("naive", "naive-by-hand", "flash")
TARGET = 3  # times NumPy's time


def random_sizes(count: int, seed: int = 0) -> dict[str, Column]:
    """Sizes of `count` configurations; as many keys and key/value heads as queries and heads."""
    draw = np.random.default_rng(seed).integers
    columns = {
        "batch": draw(2, 65, count),
        "heads": draw(2, 129, count),
        "seq": draw(2, 65_537, count),
        "head_dim": draw(2, 257, count),
    }
    twins = {"kv_heads": "heads", "kv_seq": "seq", "value_dim": "head_dim"}
    return {name: columns[twins.get(name, name)] for name in SIZES}


def rate(evaluate: Callable[[dict[str, Column]], object], columns: dict[str, Column], runs: int = RUNS) -> float:
    """Configurations per second of processor time, median of the runs."""
    taken = []
    for _ in range(runs):
        start = time.process_time()
        evaluate(columns)
        taken.append(time.process_time() - start)
    return len(columns["seq"]) / statistics.median(taken)


def swept(algorithm: str) -> Callable[[dict[str, Column]], object]:
    """A sweep of an algorithm."""
    case = make_case(algorithm)
    return lambda columns: sweep(case, columns)


def closed_forms(algorithm: str) -> Callable[[dict[str, Column]], list[Column]]:
    """The closed forms of what a sweep returns, compiled for NumPy with common terms computed once."""
    forms = formulas(make_case(algorithm))
    peak = Max(*(branch.expression for branches in forms.peaks.values() for branch in branches))
    sought = [peak, forms.saved, forms.flops, forms.hbm_bytes]
    letters = {str(SYMBOLS[name]): name for name in SIZES}
    taken: list[Symbol] = sorted(set().union(*(form.free_symbols for form in sought)), key=str)
    evaluate = lambdify(taken, sought, "numpy", cse=True)
    names = [letters[str(symbol)] for symbol in taken]

    def run(columns: dict[str, Column]) -> list[Column]:
        count = len(columns["seq"])
        found = [np.empty(count, dtype=np.int64) for _ in sought]
        for start in range(0, count, _BLOCK):
            block = slice(start, start + _BLOCK)
            values = evaluate(*(columns[name][block] for name in names))
            for column, value in zip(found, values, strict=True):
                column[block] = value
        return found

    return run


def main() -> None:
    """Print the table."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    columns = random_sizes(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
    print(f"{len(columns['seq']):,} random configurations, one training step each; target {TARGET} x NumPy's time")
    print(f"{'':14} {'sweep':>12} {'NumPy':>12} a second")
    for algorithm in ALGORITHMS:
        ours, bare = rate(swept(algorithm), columns), rate(closed_forms(algorithm), columns)
        print(f"{algorithm:14} {ours:12,.0f} {bare:12,.0f} {bare / ours:11.1f} x")


if __name__ == "__main__":
    main()

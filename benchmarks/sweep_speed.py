"""How many configurations a sweep evaluates per second on one core: live peak, saved bytes, FLOPs and HBM bytes.

An argument is the number of configurations.
"""

import os
import statistics
import sys
import time

import numpy as np

from memmodel.case import SIZES, make_case
from memmodel.sweeps import Column, sweep

COUNT = 1_000_000
RUNS = 5
ALGORITHMS = ("naive", "naive-by-hand", "flash")
TARGET = 1_000_000


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


def rate(algorithm: str, columns: dict[str, Column], runs: int = RUNS) -> float:
    """Configurations per second, median of the runs."""
    case = make_case(algorithm)
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        sweep(case, columns)
        taken.append(time.perf_counter() - start)
    return len(columns["seq"]) / statistics.median(taken)


def main() -> None:
    """Print the table."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    columns = random_sizes(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
    print(f"{len(columns['seq']):,} random configurations, one training step each; target {TARGET:,} a second")
    for algorithm in ALGORITHMS:
        print(f"{algorithm:14} {rate(algorithm, columns):12,.0f} configurations/s")


if __name__ == "__main__":
    main()

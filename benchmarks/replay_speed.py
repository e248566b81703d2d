"""How long the allocator model takes to replay one training step, and a whole prediction in a warm process.

python benchmarks/replay_speed.py
"""

import statistics
import time
from collections.abc import Callable

from memmodel.algorithms import record
from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.case import make_case
from memmodel.cublas import workspace
from memmodel.predictor import predict
from memmodel.replay import replay

RUNS = 200
TARGET_MS = 5.0
ALGORITHMS = ("naive", "naive-by-hand", "flash", "chunked")


def median_ms(action: Callable[[], object], runs: int = RUNS) -> float:
    """Median wall-clock milliseconds of `action`."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def replay_ms(algorithm: str, expandable: bool = False, runs: int = RUNS) -> float:
    """One training step through a fresh allocator, the workspace of an A100 included."""
    program = record(make_case(algorithm, batch=8, heads=12, seq=4096))
    scratch = workspace("2.13", (8, 0))
    config = AllocatorConfig(expandable_segments=expandable)
    return median_ms(lambda: replay(program, CachingAllocator(config=config), scratch), runs)


def main() -> None:
    """Print the table."""
    print(f"replay of one training step, batch 8, 12 heads, seq 4096: median of {RUNS}, target {TARGET_MS:g} ms")
    for algorithm in ALGORITHMS:
        whole, expandable = replay_ms(algorithm), replay_ms(algorithm, expandable=True)
        print(f"{algorithm:14} {whole:7.3f} ms   with expandable segments {expandable:7.3f} ms")
    print(f"predict() of naive and flash in a warm process {median_ms(lambda: predict(seq=16384), 50):7.2f} ms")


if __name__ == "__main__":
    main()

"""How fast the allocator model replays a training step and a recorded snapshot; a prediction in a warm process.

python benchmarks/replay_speed.py
"""

import pickle
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.allocator.cublas import workspace
from memmodel.attention.case import make_case
from memmodel.events.replay import replay
from memmodel.predictor import predict
from memmodel.recorder import record
from memmodel.snapshot.snapshot import read_snapshot
from memmodel.snapshot.study import study
from memmodel.snapshot.unpickle import uncollected
from memmodel_evidence.traces import load_trace

RUNS = 200
TARGET_MS = 5.0
ALGORITHMS = ("naive", "naive-by-hand", "flash", "chunked")


def median_ms(action: Callable[[], object], runs: int = RUNS) -> float:
    """Median milliseconds of CPU time of `action`: other work on the machine disturbs it less than wall-clock time."""
    taken = []
    for _ in range(runs):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return 1000 * statistics.median(taken)


def replay_ms(algorithm: str, expandable: bool = False, runs: int = RUNS) -> float:
    """One training step through a fresh allocator, the workspace of an A100 included."""
    program = record(make_case(algorithm, batch=8, heads=12, seq=4096))
    scratch = workspace("2.13", (8, 0))
    config = AllocatorConfig(expandable_segments=expandable)
    return median_ms(lambda: replay(program, CachingAllocator(config=config), scratch), runs)


def events_per_second(depth: int = 0, times: int = 20, runs: int = 5) -> tuple[float, float]:
    """Events of a recorded snapshot that are read and replayed in a second; and that pickle.load alone reads.

    `depth` frames, of 1,500 places, are added as the stack of each event. The file is read `times` times in a row, both
    ways without garbage collection, as `memmodel replay` runs.
    """
    data = load_trace("okazaki-small-training")
    events, dice = data["device_traces"][0], random.Random(0)
    frames = [{"filename": f"/home/me/layer{i % 50}.py", "line": i, "name": f"f{i}"} for i in range(1500)]
    for event in events if depth else ():
        event["frames"] = dice.choices(frames, k=depth)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot.pickle"
        path.write_bytes(pickle.dumps(data, 4))
        with uncollected():
            ours = median_ms(lambda: [study(read_snapshot(str(path))) for _ in range(times)], runs)
            alone = median_ms(lambda: [pickle.loads(path.read_bytes()) for _ in range(times)], runs)
    return 1000 * times * len(events) / ours, 1000 * times * len(events) / alone


def main() -> None:
    """Print the table."""
    print(f"replay of one training step, batch 8, 12 heads, seq 4096: median of {RUNS}, target {TARGET_MS:g} ms")
    for algorithm in ALGORITHMS:
        whole, expandable = replay_ms(algorithm), replay_ms(algorithm, expandable=True)
        print(f"{algorithm:14} {whole:7.3f} ms   with expandable segments {expandable:7.3f} ms")
    for depth in (0, 40):
        ours, alone = events_per_second(depth)
        beside = f"{ours:,.0f} events/s; pickle.load alone reads {alone:,.0f}, {alone / ours:.1f} x"
        print(f"snapshot with stacks of {depth:2} frames, read and replayed: {beside}")
    print(f"predict() of naive and flash in a warm process {median_ms(lambda: predict(seq=16384), 50):7.2f} ms")


if __name__ == "__main__":
    main()

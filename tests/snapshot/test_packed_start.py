"""How far a packed start is off: simulated training runs, recorded from the middle, beside the whole run.

docs/replay.md names the bounds asserted here.
"""

import random
import statistics
from collections.abc import Callable

import pytest
from snapshot_data import MiB, Recording

from memmodel.allocator import AllocatorConfig
from memmodel.snapshot.alloc_conf import AllocConf
from memmodel.snapshot.snapshot import parse_snapshot
from memmodel.snapshot.study import study

RUNS, STEPS = 20, 6
Change = Callable[[random.Random], float]


def train(run: Recording, dice: random.Random, change: Change) -> int:
    """Training steps whose activations change by a factor from step to step; returns the events of their first half."""
    layers = dice.randrange(4, 16)
    weights = [dice.choice([4096, dice.randrange(MiB // 2, 3 * MiB), 20 * MiB]) for _ in range(layers)]
    activations = [dice.randrange(MiB // 4, 30 * MiB) for _ in range(4)]
    temporary = [dice.randrange(1000, 40 * MiB) for _ in range(3)]
    for weight in weights * 3:  # with the optimizer's two moments
        run.malloc(weight)
    half = 0
    for step in range(STEPS):
        if step == STEPS // 2:
            half = len(run.events)
        factor = change(dice)
        kept = []
        for _ in weights:
            kept.append([run.malloc(int(size * factor)) for size in activations])
            for address in [run.malloc(int(size * factor)) for size in temporary]:
                run.free(address)
        gradients = []
        for weight in reversed(weights):
            gradients.append(run.malloc(weight))
            for address in kept.pop():
                run.free(address)
        for address in gradients:
            run.free(address)
    return half


def errors(config: AllocatorConfig, change: Change) -> list[float]:
    """For each run, the reserved peak under `config` from a packed start over that of the run itself, less one."""
    found = []
    for seed in range(RUNS):
        recorded, truth = Recording(), Recording(config)
        half = train(recorded, random.Random(seed), change)
        train(truth, random.Random(seed), change)
        same = config == recorded.allocator.config  # a limit that nothing reaches makes them other settings
        other = AllocConf(AllocatorConfig(max_split_size=1 << 50) if same else config)
        outcome = study(parse_snapshot(recorded.data(half), "x.pickle"), other).runs[-1]
        found.append(outcome.reserved_peak_bytes / truth.allocator.reserved_peak - 1)
    return found


def steady(dice: random.Random) -> float:
    return 1.0


def changing(dice: random.Random) -> float:
    return dice.choice([0.7, 1.0, 1.3])


@pytest.mark.parametrize(
    ("config", "change", "mean", "worst"),
    [
        (AllocatorConfig(), steady, 0.005, 0.01),
        (AllocatorConfig(), changing, 0.15, 0.4),
        (AllocatorConfig(expandable_segments=True), steady, 0.005, 0.01),
        (AllocatorConfig(expandable_segments=True), changing, 0.1, 0.4),
    ],
)
def test_the_reserved_peak_from_a_packed_start(
    config: AllocatorConfig, change: Change, mean: float, worst: float
) -> None:
    off = [abs(error) for error in errors(config, change)]
    assert statistics.mean(off) <= mean
    assert max(off) <= worst

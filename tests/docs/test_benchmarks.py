"""The benchmarks run, and measure what they say they do."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_is_in_the_list() -> None:
    listed = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in BENCHMARKS.glob("*.py") if path.name not in listed] == []


def test_predict_imports_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "kernels"))))
    module = benchmark("cold_start")
    for name in module.TARGETS:
        assert module.heavy_imports(module.COMMANDS[name]) == []


@pytest.mark.parametrize("algorithm", ["naive", "naive-by-hand", "flash"])
def test_sweeps_are_timed_beside_the_same_numbers_by_numpy(algorithm: str) -> None:
    module = benchmark("sweep_speed")
    columns = module.random_sizes(1000)
    assert len(np.unique(columns["seq"])) > 900
    assert columns["kv_seq"] is columns["seq"]
    ours, forms = module.swept(algorithm)(columns).results.values(), module.closed_forms(algorithm)(columns)
    if algorithm != "flash":  # whose forms hold for one head dim's tiles
        assert all(np.array_equal(*pair) for pair in zip(ours, forms, strict=True))
    assert module.rate(module.closed_forms(algorithm), columns, runs=1) > 0


def test_replay_is_far_below_its_target() -> None:
    module = benchmark("replay_speed")
    assert module.replay_ms("naive", runs=5) < module.TARGET_MS

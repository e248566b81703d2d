"""The benchmark's own arithmetic and control flow, on a CPU with the clock replaced: it must work the first time."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_reference import DEVICE

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import attention as benchmark  # noqa: E402
from attention_report import Case, Timing, aims, markdown  # noqa: E402

from memmodel.attention import tiles  # noqa: E402
from memmodel.base.dtypes import float16  # noqa: E402

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU, run the benchmark itself")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "DEVICE", "cpu")
    monkeypatch.setattr(benchmark, "DTYPE", torch.float16)
    monkeypatch.setattr(benchmark, "GATE_LENGTH", 40)
    monkeypatch.setattr(benchmark, "ROUNDS", 2)
    monkeypatch.setattr(benchmark, "RUNS", 1)
    monkeypatch.setattr(benchmark.tune, "tune", lambda *_, **__: {(tiles.FORWARD,): (tiles.Tile(64, 64),)})
    monkeypatch.setattr(benchmark, "once", lambda run, flush: (run(), 2.0)[1])
    monkeypatch.setattr(tiles, "ceilings", lambda: (64,))


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch explains why a backend cannot run
def test_measure_times_what_can_run_and_says_why_the_rest_cannot(on_cpu: None) -> None:
    case = Case(1, 2, 48, 64, causal=True)
    timings = {(t.backend, t.phase): t for t in benchmark.measure(case, torch.empty(0))}
    assert timings["ours", "forward"].runs_ms == [2.0] * benchmark.ROUNDS * benchmark.RUNS
    assert timings["ours", "forward"].tile == "64x64 8w 2s"
    assert timings["ours fused", "backward"].runs_ms
    assert ("ours fused", "forward") not in timings
    assert timings["naive", "backward"].runs_ms
    assert timings["CUDNN", "forward"].skipped
    assert not timings["CUDNN", "forward"].runs_ms


def test_gate_runs_every_row_and_notices_a_wrong_one(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found, right = benchmark.gate()
    assert right
    rows = [row for p in tiles.LAUNCHES for row in tiles.rows(90, float16, 64, p)]
    assert len(found) == 2 * len(rows)  # with and without the causal mask
    real = benchmark.flash_attention
    monkeypatch.setattr(benchmark, "flash_attention", lambda *a, **options: real(*a, **options) * 1.1)
    assert benchmark.gate()[1] is False


def test_flop_and_aims_by_hand() -> None:
    """4 b h n^2 d = 4 * 1 * 2 * 2048^2 * 64 FLOP in 1 ms is 2.147 TFLOP/s; half of it if causal."""
    case = Case(1, 2, 2048, 64, causal=False)
    ours, flash = Timing(case, "forward", "ours", runs_ms=[1.0]), Timing(case, "forward", "FLASH", runs_ms=[1.5])
    assert ours.tflops == pytest.approx(4 * 2 * 2048**2 * 64 / 1e9)
    assert Case(1, 2, 2048, 64, causal=True).flop == case.flop / 2
    assert Timing(case, "backward", "ours", runs_ms=[1.0]).tflops == pytest.approx(2.5 * ours.tflops)
    assert list(aims([ours, flash])) == [
        "- forward, n >= 2048: at least 1.2x FLASH reached: 1.50x at d=64, unmasked, n=2048"
    ]
    limits = {"matmul_TFLOPps": 10 * ours.tflops, "copy_GBps": 1.0}
    skipped = Timing(case, "forward", "CUDNN", skipped="no such thing")
    table = markdown([ours, flash, skipped], limits, "a machine")
    assert "| 64 | none | 2048 | ours | 1.000 [1.000, 1.000] | 2 | 10% | 1.50 |  |" in table
    assert "| CUDNN | not run: no such thing |" in table


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["attention.py"])
    assert benchmark.main() == 2
    assert capsys.readouterr().out == "There is no GPU here that PyTorch can use: nothing was measured.\n"

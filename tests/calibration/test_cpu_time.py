"""The benchmark of the CPU's time model says what it says it does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from memmodel.attention.case import make_case
from memmodel.events.program import Launch
from memmodel.timing import Calibration
from memmodel_validate.calibrate.flash_cpu import work_of
from memmodel_validate.cpu import with_cpu_blocks


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "cpu_time.py"
    spec = importlib.util.spec_from_file_location("benchmark_cpu_time", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_grid_is_the_one_promised(benchmark: ModuleType) -> None:
    found = list(benchmark.cases(quick=False))
    assert {name for name, _ in found} == {"naive", "naive-by-hand", "sdpa-flash"}
    assert {(case.seq, case.head_dim) for _, case in found} == {
        (n, d) for n in (512, 1024, 2048, 4096) for d in (16, 32, 64, 128)
    }
    assert {case.mask.name for _, case in found} == {"none", "causal"}


def test_errors_are_summed_up_by_group(benchmark: ModuleType) -> None:
    case = make_case("naive", seq=64)
    rows = [benchmark.Row("naive", case, "forward", 1.0, 1.0 + 0.1 * i, 0.5) for i in range(1, 4)]
    (line,) = [line for line in benchmark.summary(rows) if line.startswith("naive forward")]
    assert line.split() == ["naive", "forward", "3", "20.0%", "30.0%", "50.0%", "50.0%"]


def test_the_roofline_is_two_numbers(benchmark: ModuleType, calibration: Calibration) -> None:
    from memmodel.recorder import record
    from memmodel.recording import CPU

    program = record(make_case("naive", heads=1, seq=64, head_dim=16, dtype_name="fp32"), CPU)
    kernels = [event.work for event in program.phases()["forward"] if isinstance(event, Launch)]
    by_hand = sum(max(float(work.flops) / 1e11, float(work.hbm_bytes) / 4e10) for work in kernels)
    assert benchmark.roofline(program, "forward", calibration) == pytest.approx(by_hand)


def test_a_causal_mask_saves_whole_blocks_of_512_keys() -> None:
    from memmodel.attention.masks import mask
    from memmodel.recorder import record
    from memmodel.recording import CPU

    for n, share in ((512, 1.0), (1024, 0.75), (2048, 0.625)):
        products = []
        for name in ("causal", "none"):
            case = with_cpu_blocks(make_case("flash", heads=1, seq=n, head_dim=64, dtype_name="fp32", mask=mask(name)))
            events = record(case, CPU).phases()["forward"]
            products.append(sum(float(event.work.matmul) for event in events if isinstance(event, Launch)))
        assert products[0] / products[1] == pytest.approx(share)


def test_the_equations_hold_what_the_model_records() -> None:
    work = work_of(64, "forward")
    assert work.matmul == 4 * 2 * 1024**2 * 64  # two products, two heads
    assert work.exp == pytest.approx(2 * 1024**2, rel=0.01)  # and a rescaling a row and block

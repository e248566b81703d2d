"""Every example runs and prints numbers that follow from the shapes."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MiB, GiB = 2**20, 2**30


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def binary(count: int) -> str:
    """Bytes as the tables show them."""
    unit, name = next((u, n) for u, n in ((GiB, "GiB"), (MiB, "MiB"), (1024, "KiB")) if count >= u)
    return f"{count / unit:.2f} {name}"


def test_examples_are_short() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert lines
    assert {name for name, count in lines.items() if count >= 80} == set()


def test_every_example_is_in_the_page_with_what_it_prints() -> None:
    """Running the page's examples again is `test_pages`'."""
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert sorted(re.findall(r"<!-- example: (\w+) -->", page)) == names
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert files == set(re.findall(r"\.\./examples/([\w.]+)", page))


@pytest.fixture
def common(capsys: pytest.CaptureFixture[str]) -> str:
    example("common_account").main()
    return capsys.readouterr().out


@pytest.mark.parametrize("n", [512 << i for i in range(6)])
def test_common_account_of_one_head(common: str, n: int) -> None:
    d, fp16 = 64, 2
    inputs_and_output = 4 * n * d * fp16
    scores_and_probs = 2 * n * n * fp16
    assert re.search(rf"^ +{n} +{binary(inputs_and_output)} +{binary(scores_and_probs)}$", common, re.MULTILINE)


def test_common_account_ends_are_the_known_ones() -> None:
    module = example("common_account")
    assert module.tensor_bytes("q k v output", 512) == 256 * 1024
    assert module.tensor_bytes("scores probs", 512) == MiB
    assert module.tensor_bytes("q k v output", 16384) == 8 * MiB
    assert module.tensor_bytes("scores probs", 16384) == GiB


def test_common_account_of_many_heads(common: str) -> None:
    assert f"S + P {binary(8 * 12 * 2 * 4096 * 4096 * 2)}\n" in common  # 6 GiB


def test_common_account_intensities(common: str) -> None:
    n, d, fp16 = 16384, 64, 2
    product = 2 * n * n * d
    assert f"QK^T {product / (n * n * fp16):g} = d" in common
    softmax = 5 / (2 * fp16)  # max, subtract, exp, sum, divide over one read and one write
    assert f"softmax {softmax:g}, " in common
    everything = product / ((n * n + 2 * n * d) * fp16)
    assert f"QK^T {everything:.1f}, PV {everything:.1f}" in common


def test_common_account_balance_points(common: str) -> None:
    assert f"A100 {312 / 2.039:.1f}, at 2.0 TB/s {312 / 2.0:.0f} FLOP/B" in common  # 156
    assert f"H100 {989.4 / 3.352:.1f}, at 990 TFLOP/s and 3.35 TB/s {990 / 3.35:.0f} FLOP/B" in common  # 296


def test_common_account_corrections(common: str) -> None:
    b, h, n, d, fp16 = 8, 12, 4096, 64, 2
    matrix, vector = b * h * n * n * fp16, b * h * n * d * fp16
    peak = 4 * matrix + 6 * vector  # P, dP, dS, P dP; q, k, v, dout, output, dV
    forward = 2 * matrix + 5 * vector
    kept = vector + b * h * n * 4  # output, LSE in fp32
    flash_peak = 10 * vector + 2 * b * h * n * 4  # q, k, v, dout, out, dQ, dK, dV, dQ in fp32; LSE, delta
    assert f"saved is {matrix / peak:.1%} of the peak, in backward" in common
    assert f"{matrix / forward:.1%} of forward's." in common
    assert f"keeps {kept / matrix:.1%} of what naive keeps" in common
    assert f"peaks at {flash_peak / peak:.1%}." in common


def test_softmax_gradient_needs_the_row_sum() -> None:
    rows = example("common_account").row_gradients([0.3, -1.0, 2.0, 0.1], [1.0, -2.0, 0.5, 0.0])
    differences, with_sum, elementwise = rows.values()
    assert with_sum == pytest.approx(differences, abs=1e-8)
    assert elementwise != pytest.approx(differences, abs=1e-2)


def test_wall_is_where_the_allocator_model_says() -> None:
    from memmodel.recorder import record
    from memmodel.step import fits
    from memmodel.thresholds import resized

    module = example("find_the_wall")
    found = module.wall("RTX 4090", "naive")
    assert found.first_failing == found.largest + 128
    gpu = module.load_gpu("RTX 4090")
    for size, runs in ((found.largest, True), (found.first_failing, False)):
        case = resized(found.case, "seq", size)
        assert fits(record(case), case.torch, gpu) is runs


def test_calibrated_times_of_the_runs_on_record(capsys: pytest.CaptureFixture[str]) -> None:
    from statistics import median

    from memmodel.timing.known import community
    from memmodel_evidence.fits import fit_of
    from memmodel_evidence.records import everything
    from memmodel_evidence.times import times

    module = example("calibrate_and_compare")
    calibration = community("h20")
    assert calibration is not None
    rows = list(module.rows(calibration, everything()))
    errors = [abs(row.calibrated / row.measured - 1) for row in rows]
    assert all(row.datasheet < row.measured for row in rows)  # a lower bound
    module.main()
    assert f"calibrated: median error {median(errors):.1%} of {len(rows)} times" in capsys.readouterr().out
    fitted = {
        timed.seconds
        for run in everything().runs
        if (source := everything().sources[run.source]).gpu_id == "h20" and (fit := fit_of(run, source))
        for timed in times(run)
        if fit.trains_on(timed)
    }
    assert fitted
    assert not fitted & {row.measured for row in rows}


def test_a_calibration_without_runs_is_told(tmp_path: Path) -> None:
    from memmodel.timing.known import community

    calibration = community("h20")
    assert calibration is not None
    known = calibration.to_dict()
    known["machine"]["gpu_id"] = "l4"
    (tmp_path / "mine.json").write_text(json.dumps(known))
    with pytest.raises(SystemExit, match="no time on record of l4"):
        example("calibrate_and_compare").main(str(tmp_path / "mine.json"))


def test_own_algorithm_peaks() -> None:
    from memmodel.events.liveness import phase_peaks

    module = example("own_algorithm")
    b, h, n, d, bf16, fp32 = 2, 3, 512, 64, 2, 4
    count, vectors = b * h * n * n, 6 * b * h * n * d * bf16  # q, k, v, dout, output, dV
    plain = phase_peaks(module.recorded(module.soft_capped, b, h, n, d))
    assert plain["backward"] == 5 * count * bf16 + vectors  # tanh, P, dP, dS, P dP
    upcast = phase_peaks(module.recorded(module.soft_capped_fp32, b, h, n, d))
    assert upcast["backward"] == count * bf16 + 4 * count * fp32 + vectors  # the last four in fp32

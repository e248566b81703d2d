"""`compare`: every GPU's row is its own prediction, the order is by what was asked, and money is arithmetic on them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import memmodel
from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.gpus import gpu_ids, load_gpu
from memmodel.pictures.describe import pictures_of

GPUS = ["A100", "H100", "B200", "T4"]
SIZES = {"seq": 8192, "dtype": "fp16", "phase": "forward"}


def run(*args: str) -> str:
    return CliRunner().invoke(cli, ["compare", *args], catch_exceptions=False, standalone_mode=False).output


def test_rows_are_the_predictions_of_each_gpu_alone_the_fastest_first() -> None:
    found = memmodel.compare(GPUS, **SIZES)
    alone = {gpu: memmodel.predict(gpu, "flash", **SIZES).predictions[0] for gpu in GPUS}
    by_time = sorted(GPUS, key=lambda gpu: alone[gpu].calibrated.seconds)
    assert [row.gpu.id for row in found] == [load_gpu(gpu).id for gpu in by_time]
    for row, gpu in zip(found, by_time, strict=True):
        assert (row.memory, row.time, row.calibrated) == (alone[gpu].memory, alone[gpu].time, alone[gpu].calibrated)
        assert row.tokens_per_second == 8192 / alone[gpu].calibrated.seconds
        assert row.time.seconds <= row.calibrated.low < row.calibrated.seconds < row.calibrated.high


def test_a_model_on_each_gpu_is_what_model_gives_alone() -> None:
    setting = {"phase": "prefill", "seq": 512}
    for row in memmodel.compare(["L4", "H100"], model="gpt2", **setting):
        report = memmodel.model("gpt2", row.gpu, **setting)
        assert (row.time, row.calibrated) == (report.prediction.time, report.prediction.calibrated)
        assert row.memory.reserved_peak_bytes == report.prediction.memory.reserved_peak_bytes
        assert row.tokens_per_second == report.prediction.efficiency.tokens_per_second


def test_a_price_makes_the_order_that_of_cost() -> None:
    """A million tokens take 1e6 / (tokens a second) seconds, of which an hour has 3600."""
    found = memmodel.compare(GPUS, prices={"H100": 100.0, "a100-80gb-sxm": 1.0}, **SIZES)
    assert [row.gpu.id for row in found][:2] == ["a100-80gb-sxm", "h100-sxm"]
    assert found.sort == "cost"
    for row, dollars in zip(found, (1.0, 100.0), strict=False):
        seconds = 1e6 / 8192 * row.calibrated.seconds
        assert row.dollars_per_million_tokens == pytest.approx(dollars * seconds / 3600, rel=1e-12)
    assert found["t4"].dollars_per_million_tokens is None


def test_a_file_of_a_gpu_may_have_a_price(tmp_path: Path) -> None:
    file = tmp_path / "rented.toml"
    file.write_text('base = "h100-sxm"\nname = "a rented H100"\ndollars_per_hour = 3.25\n')
    rows = json.loads(run("--gpu", f"{file},A100", "--seq", "4k", "--json"))["gpus"]
    assert [(row["gpu"]["id"], row["dollars_per_hour"]) for row in rows] == [("rented", 3.25), ("a100-80gb-sxm", None)]


def test_what_does_not_fit_comes_last_and_has_no_throughput() -> None:
    found = memmodel.compare(["T4", "B200"], "naive", seq=16384, dtype="fp16")
    assert [(row.gpu.id, row.memory.fits) for row in found] == [("b200", True), ("t4", False)]
    assert found["t4"].tokens_per_second is None


def test_all_gpus_are_rows_and_the_table_is_80_wide() -> None:
    lines = run("--gpu", "all", "--seq", "4k", "--phase", "inference").splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if line} >= set(gpu_ids())


def test_the_picture_has_each_interval_and_bound_where_the_numbers_are() -> None:
    found = memmodel.compare(["A100", "H100", "L40S"], seq=4096)
    (picture,) = pictures_of(found)
    names = dict(picture.y.ticks)
    assert [names[at] for at in sorted(names, reverse=True)] == [row.gpu.id for row in found]
    for line in picture.lines:
        (low, at), (high, _) = line.points
        row = found[names[at]]
        assert (low, high) == (row.calibrated.low, row.calibrated.high)
        assert {mark.x for mark in picture.marks if mark.y == at} == {row.calibrated.seconds, row.time.seconds}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--gpu", "A100", "--price", "H100=2"), "which is not compared"),
        (("--gpu", "A100", "--price", "A100=free"), "expected GPU=DOLLARS"),
        (("--gpu", "A100", "--price", "A100=0"), r"expected \$ an hour"),
        (("--gpu", "A100", "--price", "A100=nan"), r"expected GPU=DOLLARS an hour"),
        (("--gpu", "A100", "--price", "=2"), "expected GPU=DOLLARS"),
        (("--gpu", "A100", "--sort", "cost"), "without a price"),
        (("--gpu", "A100", "--sort", "speed"), "unknown order"),
        (("--gpu", "A100", "-a", "naive,flash"), "compared on one"),
        (
            (
                "--gpu",
                "A101",
            ),
            "unknown GPU",
        ),
    ],
)
def test_wrong_use_is_one_sentence(args: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*args)

"""Several GPUs side by side are what each gives alone; sizes that `max` and `sweep` vary are those their help lists."""

import csv
import io
import json
import re

import pytest
from click.testing import CliRunner

import memmodel
from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.gpus import all_gpus, load_gpu
from memmodel.recorder import record
from memmodel.step import fits
from memmodel.thresholds import OVER, resized, threshold

GPUS = ("A100", "L4", "MI300X")


def run(*args: str) -> str:
    return CliRunner().invoke(cli, args, catch_exceptions=False, standalone_mode=False).output


def test_reports_side_by_side_are_those_of_each_gpu() -> None:
    both = memmodel.predict(list(GPUS), ["naive", "flash"], seq=16384)
    alone = [memmodel.predict(gpu, ["naive", "flash"], seq=16384) for gpu in GPUS]
    assert [report.to_dict() for report in both] == [report.to_dict() for report in alone]
    assert both["l4"].gpu is both["NVIDIA L4"].gpu
    with pytest.raises(UsageError, match=r"choose one of|did you mean"):
        both["h100-sxm"]


def test_the_command_prints_a_row_for_each_gpu_and_what_differs_once() -> None:
    lines = run("predict", "--gpu", ",".join(GPUS), "--seq", "16k", "-a", "naive").splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line for line in lines if re.match(r"[a-z0-9-]+ +(yes|NO)", line)}
    assert list(rows) == ["a100-80gb-sxm", "l4", "mi300x"]
    for gpu, row in zip(GPUS, rows.values(), strict=True):
        memory = memmodel.predict(gpu, "naive", seq=16384)["naive"].memory
        assert ("yes" in row) is memory.fits
        assert f"{memory.device_bytes / 2**30:,.2f} GiB" in row
    assert sum(line.startswith("- torch 2.13") for line in lines) == 1
    assert any(line.startswith("- mi300x: memory outside the allocator") for line in lines)


def test_json_holds_every_report_and_threshold() -> None:
    reports = json.loads(run("predict", "--gpu", "A100,L4", "--json"))["reports"]
    assert [report["gpu"]["id"] for report in reports] == ["a100-80gb-sxm", "l4"]
    found = json.loads(run("max", "--gpu", "A100,L4", "-a", "naive,flash", "--json"))["thresholds"]
    assert [(t["algorithm"], t["gpu"]["id"]) for t in found] == [
        (algorithm, gpu) for algorithm in ("naive", "flash") for gpu in ("a100-80gb-sxm", "l4")
    ]
    for t in found:
        case = memmodel.make_case(t["algorithm"], heads=32, seq=4096, head_dim=128)
        assert threshold(case, t["gpu"]["id"]).largest == t["largest"]


def test_a_sweep_with_gpus_has_the_verdict_and_times_of_predictions() -> None:
    rows = list(csv.DictReader(io.StringIO(run("sweep", "--gpu", "A100,L4", "--seq", "1k,16k", "-a", "naive,flash"))))
    assert len(rows) == 8
    for row in rows:
        alone = memmodel.predict(row["gpu"], row["algorithm"], seq=int(row["seq"])).predictions[0]
        assert row["fits"] == str(alone.memory.fits)
        assert int(row["reserved_peak_bytes"]) == alone.memory.reserved_peak_bytes
        assert int(row["allocated_peak_bytes"]) == alone.memory.allocated_peak_bytes
        assert int(row["live_peak_bytes"]) == alone.memory.live_peak_bytes
        assert alone.time is not None
        assert float(row["seconds_at_least"]) == alone.time.seconds
        assert row["seconds_expected"] == (str(alone.calibrated.seconds) if alone.calibrated else "")


@pytest.mark.parametrize(
    "command",
    [
        ("sweep", "--expandable-segments"),
        ("report", "--gpu", "A100,L4", "-o", "x.md"),
        ("model", "--like", "gpt2", "--gpu", "all"),
    ],
)
def test_one_sentence_where_a_gpu_is_missing_or_too_many(command: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"give --gpu too|takes one GPU"):
        run(*command)


def test_of_all_gpus_those_without_a_known_capacity_are_left_out() -> None:
    found = json.loads(run("max", "--gpu", "all", "-a", "flash", "--step", "1M", "--json"))["thresholds"]
    assert [one["gpu"]["id"] for one in found] == [gpu.id for gpu in all_gpus() if "capacity" in gpu.values]
    with pytest.raises(UsageError, match="no capacity_GiB is known for NVIDIA A10"):
        run("max", "--gpu", "A100,A10", "-a", "flash")


@pytest.mark.parametrize("command", ["timeline", "roofline"])
@pytest.mark.parametrize("what", [("-a", "naive"), ("--model", "gpt2", "--seq", "512")])
def test_pictures_of_several_gpus_are_those_of_each(command: str, what: tuple[str, ...]) -> None:
    both, *alone = (json.loads(run(command, "--gpu", gpus, "--data", *what)) for gpus in ("L4,A100", "L4", "A100"))
    each = [panel for one in alone for panel in one.pop("panels", [{k: v for k, v in one.items() if k != "schema"}])]
    assert both["panels"] == each
    assert both["kind"] == command


@pytest.mark.parametrize("gpus", [[], 5, None])
def test_what_is_no_gpu_is_refused(gpus: object) -> None:
    with pytest.raises(UsageError, match="unknown GPU"):
        memmodel.predict(gpus)  # type: ignore[call-overload]


def test_the_sizes_in_the_help_are_those_that_are_searched() -> None:
    listed = re.search(r"--over SIZE +(.*?\.)", " ".join(run("max", "--help").split()))
    assert listed is not None
    assert set(re.findall(r"[a-z-]+", listed[1])) - {"or"} == {name.replace("_", "-") for name in OVER}
    with pytest.raises(UsageError) as refused:
        run("max", "--over", "rows")
    assert all(name in str(refused.value) for name in OVER)


@pytest.mark.parametrize("over", ["window", "chunk"])
def test_the_largest_window_and_chunk(over: str) -> None:
    """Scores of a chunk are its queries by the keys that they see, so that both sizes have a largest."""
    sizes = {"batch": 4, "heads": 16, "seq": 16384, "chunk": 4096}
    case = memmodel.make_case("chunked", **sizes, dtype_name="fp16", phase="inference")  # type: ignore[arg-type]
    gpu = load_gpu("T4")
    found = threshold(case, gpu, over, step=64)
    assert found.largest > 0
    assert found.first_failing == found.largest + 64
    for size, expected in ((found.largest, True), (found.first_failing, False)):
        sized = resized(case, over, size)
        assert fits(record(sized), sized.torch, gpu) is expected
    with pytest.raises(UsageError, match="only chunked attention has a chunk"):
        threshold(memmodel.make_case("naive"), gpu, "chunk")


def test_kv_heads_are_divisors_of_heads() -> None:
    """K and V of 32,768 keys, 512 sequences and one kv head of 128 are 8 GiB in two bytes: 6 heads take 48 GiB of an
    A100's 79, 12 take 96. Naive attention repeats them for 12 query heads, unless there are 12 kv heads."""
    sizes = {"batch": 512, "heads": 12, "seq": 1, "kv_seq": 32768, "head_dim": 128}
    case = memmodel.make_case("flash", **sizes, phase="inference")  # type: ignore[arg-type]
    found = threshold(case, "A100", "kv-heads")
    assert (found.largest, found.first_failing) == (6, 12)
    with pytest.raises(UsageError, match="no multiple of it"):
        threshold(case, "A100", "kv-heads", step=5)
    case = memmodel.make_case("naive", **sizes | {"batch": 384}, phase="inference")  # type: ignore[arg-type]
    found = threshold(case, "A100", "kv-heads")
    grouped = resized(case, "kv_heads", 6)
    assert (found.largest, found.first_failing) == (12, None)
    assert not fits(record(grouped), grouped.torch, load_gpu("A100"))

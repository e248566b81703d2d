"""A user's GPU file: what it may hold, and one clear error for each thing that it may not."""

from pathlib import Path

import pytest

from memmodel.errors import UsageError
from memmodel.gpus import load_gpu, load_gpu_file
from memmodel.gpus.files import parse_gpu
from memmodel.gpus.toml import DATA, read_toml

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_gpu.toml"
SMALLEST = 'name = "Mine"\nbandwidth_GBps = 1000\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_example_loads() -> None:
    gpu = load_gpu_file(EXAMPLE)
    assert (gpu.id, gpu.name, gpu.compute_capability) == ("my_gpu", "My GPU", (9, 0))
    assert gpu.bandwidth == 4000e9
    assert gpu.source("bandwidth") == "datasheet of my GPU, page 2"
    assert gpu.source("capacity") == "user file my_gpu.toml"
    assert gpu.balance_point("bf16") == pytest.approx(989.4 / 4.0)


def test_smallest_file_is_a_name_and_a_bandwidth(tmp_path: Path) -> None:
    gpu = load_gpu_file(str(write(tmp_path, SMALLEST)))
    assert (gpu.name, gpu.bandwidth) == ("Mine", 1e12)
    with pytest.raises(UsageError, match=r"no tensor_TFLOPS\.fp8 is known for Mine"):
        gpu.peak_by_name("fp8")


def test_database_files_are_in_the_user_format() -> None:
    path = Path(DATA) / "gpus" / "h100-sxm.toml"
    assert load_gpu_file(path) == load_gpu("h100-sxm")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("capacity_GiB = 2", 2**31),
        ("capacity_MiB = 2048", 2**31),
        ("capacity_bytes = 2147483648", 2**31),
    ],
)
def test_capacity_takes_three_units(tmp_path: Path, line: str, expected: int) -> None:
    assert load_gpu_file(write(tmp_path, SMALLEST + line)).capacity_bytes == expected


def test_bandwidth_takes_terabytes(tmp_path: Path) -> None:
    assert load_gpu_file(write(tmp_path, 'name = "Mine"\nbandwidth_TBps = 3.35')).bandwidth == 3.35e12


def test_base_fills_what_the_file_leaves_out(tmp_path: Path) -> None:
    gpu = load_gpu_file(write(tmp_path, 'base = "A10"\ncapacity_GiB = 22.06\n'))
    a10 = load_gpu("A10")
    assert gpu.name == a10.name
    assert gpu.capacity_bytes == int(22.06 * 2**30)
    assert gpu.source("capacity") == "user file mine.toml"
    assert gpu.peak_by_name("bf16") == a10.peak_by_name("bf16")
    assert "capacity" not in a10.values


def test_measured_entries_are_read(tmp_path: Path) -> None:
    lines = 'measured = [{ what = "gemm", dtype = "bf16", TFLOPS = 500 }, { what = "copy", GBps = 900 }]'
    gemm, copy = load_gpu_file(write(tmp_path, SMALLEST + lines)).measured
    assert (gemm.rate, gemm.unit, gemm.source) == (500e12, "FLOP/s", "user file mine.toml")
    assert (copy.rate, copy.unit, copy.dtype) == (900e9, "byte/s", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # keys
        (
            SMALLEST + "bandwidth_GB = 2039",
            "unknown key in mine.toml 'bandwidth_GB': did you mean bandwidth_GBps",
        ),
        (
            SMALLEST + "capacity_GB = 80",
            "unknown key in mine.toml 'capacity_GB': did you mean .*capacity_GiB",
        ),
        (SMALLEST + "sms = 132", "unknown key in mine.toml 'sms'"),
        (
            SMALLEST + "tensor_TFLOPS.bf61 = 1",
            "unknown element type in tensor_TFLOPS of mine.toml 'bf61'.*bf16",
        ),
        (
            SMALLEST + "tdp_W = { value = 1, src = 'x' }",
            "unknown part of tdp_W in mine.toml 'src': did you mean source",
        ),
        # units and types
        (
            'name = "Mine"\nbandwidth_GBps = "2 TB/s"',
            "bandwidth_GBps must be a number in the unit .* not '2 TB/s'",
        ),
        ('name = "Mine"\nbandwidth_GBps = true', "bandwidth_GBps must be a number .* not True"),
        (SMALLEST + "sm_count = [132]", r"sm_count must be a number .* not \[132\]"),
        (SMALLEST + "sm_count = 131.5", "sm_count must be a whole number, not 131.5"),
        (
            SMALLEST + "tensor_TFLOPS = 989",
            "tensor_TFLOPS must be a table such as `tensor_TFLOPS.bf16 = 312`, not 989",
        ),
        ("name = 5\nbandwidth_GBps = 1", "name must be text in quotes, not 5"),
        (SMALLEST + "tdp_W = { value = 1, source = 7 }", "the source of tdp_W must be text in quotes, not 7"),
        (SMALLEST + "compute_capability = '9'", "compute_capability must be such as \"9.0\", not '9'"),
        (
            SMALLEST + "compute_capability = 'sm.90'",
            "compute_capability must be such as \"9.0\", not 'sm.90'",
        ),
        (SMALLEST + "measured = 3", "measured must be a list of tables, not 3"),
        (SMALLEST + "measured = [{ what = 'gemm' }]", "a measured entry needs TFLOPS or GBps, not only what"),
        (SMALLEST + "measured = [{ how = 'x', GBps = 1 }]", "unknown part of measured in mine.toml 'how'"),
        # values
        ('name = "Mine"\nbandwidth_GBps = -1', "bandwidth_GBps must be finite and above 0, not -1"),
        ('name = "Mine"\nbandwidth_GBps = 0', "bandwidth_GBps must be finite and above 0, not 0"),
        ('name = "Mine"\nbandwidth_GBps = nan', "bandwidth_GBps must be finite and above 0, not nan"),
        ('name = "Mine"\nbandwidth_GBps = inf', "bandwidth_GBps must be finite and above 0, not inf"),
        (SMALLEST + "tensor_TFLOPS.bf16 = 0", "tensor_TFLOPS.bf16 must be finite and above 0, not 0"),
        (SMALLEST + "tdp_W = { source = 'x' }", "tdp_W has no value: write `tdp_W = { value = "),
        (SMALLEST + "bandwidth_TBps = 1", "bandwidth_TBps gives bandwidth a second time, in another unit"),
        (
            SMALLEST + "context_low_MiB = 600\ncontext_high_MiB = 500",
            "context_low_MiB 600 is above context_high_MiB 500",
        ),
        # what is missing
        ("bandwidth_GBps = 1", 'mine.toml has no name: add `name = "..."`'),
        ('name = "Mine"', "mine.toml has no bandwidth_GBps: every GPU needs it"),
        ('base = "A11"', "unknown GPU 'A11': did you mean"),
        ("base = 10", "mine.toml: base must be the name of a GPU in quotes, not 10"),
        # not TOML
        ("bandwidth_GBps 1000", "mine.toml is not valid TOML: .*line 1"),
        (SMALLEST + 'name = "Again"', "mine.toml is not valid TOML: Cannot overwrite a value"),
    ],
)
def test_wrong_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        load_gpu_file(write(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*absent\.toml: No such file"):
        load_gpu_file(tmp_path / "absent.toml")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        load_gpu_file(tmp_path)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not a text file"):
        load_gpu_file(tmp_path / "mine.toml")


def test_parsing_leaves_the_document_alone() -> None:
    document = read_toml(EXAMPLE)
    parse_gpu(document, "x", where="x.toml")
    assert document == read_toml(EXAMPLE)

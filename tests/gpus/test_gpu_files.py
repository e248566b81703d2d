"""A user's GPU file: what it may hold, and one clear error for each thing that it may not."""

from pathlib import Path

import pytest

from memmodel import predict
from memmodel.base.errors import UsageError
from memmodel.base.files import DATA, read_toml
from memmodel.gpus import gpu_ids, load_gpu, load_gpu_file
from memmodel.gpus.files import gpu_of
from memmodel.gpus.links import node_of
from memmodel.timing.transfer import expected_rates

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


@pytest.mark.parametrize("given", ["9", "9.0", '"9.0"'])
def test_a_compute_capability_may_be_a_number(tmp_path: Path, given: str) -> None:
    gpu = load_gpu_file(str(write(tmp_path, f"{SMALLEST}compute_capability = {given}\n")))
    assert gpu.compute_capability == (9, 0)


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
        (SMALLEST + "bandwidth_GB = 2039", "unknown key in mine.toml 'bandwidth_GB': did you mean bandwidth_GBps"),
        (SMALLEST + "capacity_GB = 80", "unknown key in mine.toml 'capacity_GB': did you mean .*capacity_GiB"),
        (SMALLEST + "sms = 132", "unknown key in mine.toml 'sms'"),
        (SMALLEST + "tensor_TFLOPS.bf61 = 1", "unknown key of tensor_TFLOPS in mine.toml 'bf61'.*bf16"),
        (SMALLEST + "tdp_W = { value = 1, src = 'x' }", "unknown key of tdp_W in mine.toml 'src': .*source"),
        # units and types
        ('name = "Mine"\nbandwidth_GBps = "2 TB/s"', "bandwidth_GBps is '2 TB/s', expected a number"),
        ('name = "Mine"\nbandwidth_GBps = true', "bandwidth_GBps is True, expected a number"),
        (SMALLEST + "sm_count = [132]", r"sm_count is \[132\], expected a number"),
        (SMALLEST + "sm_count = 131.5", "sm_count is 131.5, expected a whole number"),
        (SMALLEST + "tensor_TFLOPS = 989", "tensor_TFLOPS is 989, expected a table"),
        ("name = 5\nbandwidth_GBps = 1", "name is 5, expected text"),
        (f"name = '{'y' * 101}'\nbandwidth_GBps = 1", "expected text of length <= 100"),
        (SMALLEST + "tdp_W = { value = 1, source = 7 }", "tdp_W.source is 7, expected text"),
        (SMALLEST + "compute_capability = '9'", "compute_capability is '9', expected one such as \"9.0\""),
        (SMALLEST + "compute_capability = 'sm.90'", "compute_capability is 'sm.90', expected one such as \"9.0\""),
        (SMALLEST + "measured = 3", "measured is 3, expected a list"),
        (SMALLEST + "measured = [{ what = 'gemm' }]", r"measured\[0\]: a measurement needs either TFLOPS or GBps"),
        (SMALLEST + "measured = [{ how = 'x', GBps = 1 }]", r"unknown key of measured\[0\] in mine.toml 'how'"),
        # values: nothing from which a time could become infinite, or no number at all
        *(
            (f'name = "Mine"\nbandwidth_GBps = {value}', f"bandwidth_GBps is {shown}, expected a number from 1e-09 to")
            for value, shown in (("-1", "-1"), ("0", "0"), ("nan", "nan"), ("inf", "inf"), ("1e-308", "1e-308"))
        ),
        (SMALLEST + "tensor_TFLOPS.bf16 = 0", "tensor_TFLOPS.bf16 is 0, expected a number"),
        ('name = "Mine"\nbandwidth_GBps = 1e-9', "bandwidth_GBps is 1e-09, expected 1 to 1e.06: is it in other units"),
        (SMALLEST + "tensor_TFLOPS.bf16 = 989e12", "tensor_TFLOPS.bf16 is 9.89e.14, expected 0.001 to 1e.07"),
        (SMALLEST + "boost_clock_MHz = 1.98", "boost_clock_MHz is 1.98, expected 10 to 100000"),
        (SMALLEST + "tdp_W = { source = 'x' }", "the value of tdp_W is missing"),
        (SMALLEST + "bandwidth_TBps = 1", "gives bandwidth in 2 units"),
        (SMALLEST + "context_low_MiB = 600\ncontext_high_MiB = 500", "context_low_MiB 600 is above .* 500"),
        (
            'name = "\\u001b[31mred"\nbandwidth_GBps = 1',
            "name is '.x1b.31mred', expected text without control",
        ),
        # what is missing
        ("bandwidth_GBps = 1", 'mine.toml has no name: add `name = "..."`'),
        ('name = "Mine"', "mine.toml has no bandwidth_GBps: every GPU needs it"),
        ('base = "A11"', "unknown GPU 'A11': did you mean"),
        ("base = 10", "mine.toml: base is 10, expected text"),
        # not TOML
        ("bandwidth_GBps 1000", "mine.toml is not valid TOML: .*line 1"),
        (SMALLEST + 'name = "Again"', "mine.toml is not valid TOML: Cannot overwrite a value"),
    ],
)
def test_wrong_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        load_gpu_file(write(tmp_path, text))
    assert "\n" not in str(raised.value)
    assert "mine.toml" in str(raised.value) or "GPU 'A11'" in str(raised.value)


@pytest.mark.parametrize("gpu_id", gpu_ids())
def test_shipped_files_pass_the_checks_of_users_files(gpu_id: str) -> None:
    """Loading a shipped file skips them, to start fast."""
    assert load_gpu_file(Path(DATA) / "gpus" / f"{gpu_id}.toml") == load_gpu(gpu_id)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*absent\.toml \(No such file"):
        load_gpu_file(tmp_path / "absent.toml")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .* \(it is a folder"):
        load_gpu_file(tmp_path)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not a text file"):
        load_gpu_file(tmp_path / "mine.toml")


def test_parsing_leaves_the_document_alone() -> None:
    document = read_toml(str(EXAMPLE))
    gpu_of(document, "x")
    assert document == read_toml(str(EXAMPLE))


def test_a_power_limit_lowers_the_clock_of_long_work_but_no_bound(tmp_path: Path) -> None:
    """Power goes with the cube of the clock: at an eighth of it everything but memory takes twice as long."""
    whole, limited = (
        load_gpu_file(write(tmp_path, f'base = "h100-sxm"\nname = "mine"\npower_limit_W = {watts}\n'))
        for watts in (700, 700 / 8)
    )
    rates, slow = expected_rates(whole).constants, expected_rates(limited).constants
    for name in ("matmul.bf16", "matmul.bf16.wide", "broadcast", "flash.matmul"):
        assert slow[name].at(0) == pytest.approx(rates[name].at(0) / 2)
    assert slow["bandwidth"] == rates["bandwidth"]
    (before,), (after,) = (predict(gpu, ["flash"], seq=8192, dtype="bf16") for gpu in (whole, limited))
    assert before.time
    assert before.calibrated
    assert after.time
    assert after.calibrated
    assert before.time.seconds == after.time.seconds
    assert after.calibrated.seconds > 1.5 * before.calibrated.seconds
    with pytest.raises(UsageError, match="power_limit"):
        load_gpu_file(write(tmp_path, 'base = "h100-sxm"\npower_limit_W = 0.1\n'))


def test_a_file_based_on_a_known_gpu_has_its_links_and_its_rates(tmp_path: Path) -> None:
    known, own = load_gpu("h100-sxm"), load_gpu_file(write(tmp_path, 'base = "h100-sxm"\nname = "mine"\n'))
    assert node_of(own) == node_of(known)
    assert expected_rates(own).constants["matmul.bf16.wide"].at(0) == pytest.approx(
        expected_rates(known).constants["matmul.bf16.wide"].at(0)
    )

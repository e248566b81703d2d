"""Every listed peak against SMs x FLOP per clock per SM x clock, and against arithmetic done here by hand."""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest
from identity import expected_peak, flop_per_clock_per_sm, peak_clock

from memmodel.base.dtypes import bfloat16, float32
from memmodel.base.files import DATA
from memmodel.gpus import Gpu, Pipe, all_gpus, gpu_ids, load_gpu
from memmodel.gpus.keys import PEAK_TABLES

MHZ = 1e6
TERA = 1e12


def printed_peaks(id_: str) -> dict[str, Decimal]:
    """Quantity -> TFLOP/s with exactly the digits that the file prints."""
    document = tomllib.loads((Path(DATA) / "gpus" / f"{id_}.toml").read_text(encoding="utf-8"), parse_float=Decimal)
    return {
        f"{pipe}.{name}": Decimal(entry["value"])
        for table, pipe in PEAK_TABLES.items()
        for name, entry in document.get(table, {}).items()
    }


def split(quantity: str) -> tuple[str, Pipe]:
    """The element type and the pipe of a quantity such as `tensor.bf16`."""
    pipe, _, name = quantity.partition(".")
    return name, cast(Pipe, pipe)


def tolerance(printed: Decimal, clock: float) -> float:
    """Relative error of rounding the peak to its last printed digit and the clock to 1 MHz."""
    half_a_digit = Decimal(10) ** int(printed.as_tuple().exponent) / 2
    return float(half_a_digit / printed) + 0.5 * MHZ / clock


def deviation(gpu: Gpu, quantity: str, clock: float | None = None) -> float:
    """Listed over expected, less 1. `clock` replaces the one that the identity would take."""
    expected = expected_peak(gpu, *split(quantity))
    if clock is not None:
        expected *= clock / peak_clock(gpu, *split(quantity))
    return gpu.value(quantity) / expected - 1


PRINTED = {id_: printed_peaks(id_) for id_ in gpu_ids()}
LISTED = [(id_, quantity) for id_, peaks in PRINTED.items() for quantity in peaks]

MIXED_CLOCKS = "the datasheet lists this one at the boost clock of 2520 MHz and bf16 at 2490"
H20_CLOCK = "148 and its multiples need 1853 MHz; the only published tensor clock is 1830"
NODE_SHARE = "one eighth of a rounded total of a node"
CUT = "cut by export rules below what the die's 128 FLOP per clock per SM give"

EXCEPTIONS = {
    ("v100-sxm2-16gb", "vector.fp16"): "twice the rounded fp32 value of 15.7",
    ("v100-sxm2-32gb", "vector.fp16"): "twice the rounded fp32 value of 15.7",
    ("rtx-3090", "tensor.int8"): "twice the rounded fp16_fp16acc value of 142",
    ("l4", "tensor.tf32"): "60.6 printed as 60",
    ("l40s", "tensor.tf32"): MIXED_CLOCKS,
    ("l40s", "tensor.fp8"): MIXED_CLOCKS,
    ("l40s", "tensor.int8"): MIXED_CLOCKS,
    ("h20", "tensor.tf32"): H20_CLOCK,
    ("h20", "tensor.fp16"): H20_CLOCK,
    ("h20", "tensor.bf16"): H20_CLOCK,
    ("h20", "tensor.fp8"): H20_CLOCK,
    ("h20", "tensor.int8"): H20_CLOCK,
    ("h20", "vector.fp32"): "44 needs 2204 MHz on 78 SMs: the value itself is in doubt",
    ("h800-sxm", "vector.fp64"): CUT,
    ("b200", "vector.fp32"): NODE_SHARE,
    ("b300", "vector.fp32"): NODE_SHARE,
    ("b300", "vector.fp64"): NODE_SHARE,
    ("b300", "tensor.int8"): NODE_SHARE,
    ("b300", "tensor.fp4"): "14 PFLOP/s, rounded; the SM count is also in doubt",
    ("gb300", "tensor.int8"): "a rounded 0.165 POPS",
    ("gb300", "vector.fp32"): "80 against 80.5: a rounded share of a rack's total",
}

# No FLOP per clock per SM is known: B100 has no published SM count, a Gaudi has no SMs, H20's fp64 is cut.
UNCHECKED = {
    *((id_, quantity) for id_ in ("b100", "gaudi2", "gaudi3") for quantity in PRINTED[id_]),
    ("h20", "vector.fp64"),
}


@pytest.mark.parametrize(("id_", "quantity"), [case for case in LISTED if case not in UNCHECKED])
def test_listed_peak_is_sms_times_rate_times_clock(id_: str, quantity: str) -> None:
    gpu = load_gpu(id_)
    allowed = tolerance(PRINTED[id_][quantity], peak_clock(gpu, *split(quantity)))
    off = abs(deviation(gpu, quantity))
    if (id_, quantity) in EXCEPTIONS:
        assert off > allowed, f"{id_} {quantity} is no exception any more: {EXCEPTIONS[id_, quantity]}"
    else:
        assert off <= allowed, f"{id_} {quantity} is {off:.2%} off, rounding explains {allowed:.2%}"


def test_every_exception_and_every_unchecked_value_is_listed() -> None:
    assert set(EXCEPTIONS) <= set(LISTED)
    unchecked = {
        (gpu.id, quantity)
        for gpu in all_gpus()
        for quantity in PRINTED[gpu.id]
        if flop_per_clock_per_sm(gpu, *split(quantity)) is None
    }
    assert unchecked == UNCHECKED


@pytest.mark.parametrize("id_", sorted(set(gpu_ids()) - {"b100", "gaudi2", "gaudi3"}))
def test_a_sparse_peak_would_be_caught(id_: str) -> None:
    gpu = load_gpu(id_)
    for quantity in ("tensor.fp16", "tensor.bf16"):
        if quantity in PRINTED[id_]:
            sparse = 2 * PRINTED[id_][quantity]
            off = abs(2 * (deviation(gpu, quantity) + 1) - 1)
            assert off > tolerance(sparse, gpu.tensor_clock)


@pytest.mark.parametrize("quantity", ["tensor.tf32", "tensor.fp8", "tensor.int8"])
def test_l40s_exceptions_fit_the_boost_clock(quantity: str) -> None:
    gpu = load_gpu("l40s")
    allowed = tolerance(PRINTED["l40s"][quantity], gpu.boost_clock)
    assert abs(deviation(gpu, quantity, clock=gpu.boost_clock)) <= allowed


def test_h20_exceptions_share_one_clock() -> None:
    gpu = load_gpu("h20")
    for quantity in ("tensor.tf32", "tensor.fp16", "tensor.bf16", "tensor.fp8", "tensor.int8"):
        assert abs(deviation(gpu, quantity, clock=1853 * MHZ)) <= tolerance(PRINTED["h20"][quantity], 1853 * MHZ)


# SMs, tensor cores per SM, FMA per core per clock, MHz: the last two as each architecture's whitepaper has th
BF16_BY_HAND = {
    "a100-80gb-sxm": (108, 4, 256, 1410),
    "h100-sxm": (132, 4, 512, 1830),
    "h100-pcie": (114, 4, 512, 1620),
    "l4": (58, 4, 128, 2040),
    "rtx-a6000": (84, 4, 128, 1800),
    "rtx-4090": (128, 4, 64, 2520),  # GeForce: half of the die's 128 when accumulating in fp32
}


@pytest.mark.parametrize(("id_", "factors"), BF16_BY_HAND.items())
def test_bf16_peak_is_dense(id_: str, factors: tuple[int, int, int, int]) -> None:
    sms, cores, fma, mhz = factors
    by_hand = sms * cores * fma * 2 * mhz * MHZ  # 2 FLOP per FMA
    assert load_gpu(id_).peak(bfloat16) == pytest.approx(by_hand, rel=2e-3)  # three printed digits


def test_h100_tensor_peak_is_not_at_the_boost_clock() -> None:
    gpu = load_gpu("h100-sxm")
    at_boost = gpu.sm_count * 4096 * gpu.boost_clock
    assert at_boost / gpu.peak(bfloat16) == pytest.approx(1980 / 1830, rel=1e-3)


def test_half_rate_gpus_reach_double_when_accumulating_in_fp16() -> None:
    for id_ in ("rtx-2080-ti", "rtx-3090", "rtx-4090", "rtx-5090"):
        gpu = load_gpu(id_)
        assert gpu.peak_by_name("fp16_fp16acc") == pytest.approx(2 * gpu.peak_by_name("fp16"), rel=5e-3), id_


def test_a10g_and_l40_are_half_rate_but_a10_and_l40s_are_not() -> None:
    def per_sm_and_clock(id_: str) -> float:
        gpu = load_gpu(id_)
        return gpu.peak(bfloat16) / gpu.sm_count / gpu.tensor_clock

    assert per_sm_and_clock("a10") == pytest.approx(2 * per_sm_and_clock("a10g"), rel=2e-3)
    assert per_sm_and_clock("l40s") == pytest.approx(2 * per_sm_and_clock("l40"), rel=2e-3)


def test_a100_balance_point_of_156_is_at_2_terabytes_per_second() -> None:
    gpu = load_gpu("a100-80gb-sxm")
    assert gpu.peak(bfloat16) / 2.0e12 == 156
    assert gpu.balance_point(bfloat16) == pytest.approx(312e12 / 2039e9)  # 153 at the listed 2039 GB/s


def test_h100_balance_point_of_296_takes_a_peak_rounded_up() -> None:
    gpu = load_gpu("h100-sxm")
    assert round(990 / 3.35) == 296  # the often quoted number: 989.4 rounded to 990, the datasheet's 3.35 TB/s
    assert round(gpu.peak(bfloat16) / 3.35e12) == 295  # unrounded, the datasheet's bandwidth
    assert gpu.balance_point(bfloat16) == pytest.approx(989.4 / 3.352)  # 295.2, the device's own bandwidth


def test_balance_point_takes_a_name_or_a_dtype() -> None:
    gpu = load_gpu("h100-sxm")
    assert gpu.balance_point("bf16") == gpu.balance_point(bfloat16)
    assert gpu.balance_point("fp8") == pytest.approx(1978.9 / 3.352)


def test_fp32_products_run_on_the_vector_pipe_unless_tf32_is_asked_for() -> None:
    gpu = load_gpu("a100-80gb-sxm")
    assert gpu.peak(float32) == gpu.peak(float32, "vector") == 19.5 * TERA
    assert gpu.peak_by_name("tf32") == 8 * gpu.peak(float32)  # 156: 1024 against 128 FLOP per clock per SM
    assert gpu.peak_quantity("fp32") == "vector.fp32"


def test_fp32_products_run_on_the_matrix_pipe_where_it_takes_fp32() -> None:
    gpu = load_gpu("mi210")
    assert gpu.peak_quantity("fp32") == "tensor.fp32"
    assert gpu.peak(float32) == pytest.approx(2 * gpu.peak(float32, "vector"), rel=3e-3)  # 256 against 128


def test_exponentials_per_second() -> None:
    # NVIDIA measured 4943 Gop/s on a GB200 and 10024 on a GB300; the boost clock bounds both within 2 %
    assert 4943e9 <= load_gpu("gb200").exp_rate <= 1.02 * 4943e9
    assert 10024e9 <= load_gpu("gb300").exp_rate <= 1.02 * 10024e9
    h100 = load_gpu("h100-sxm")
    assert h100.exp_rate == 132 * 16 * 1980 * MHZ

"""The database as data: every file loads, every value has a source that resolves, sizes are in order."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from identity import rate_tables

from memmodel.base.dtypes import bfloat16, float16, float64, int64
from memmodel.base.errors import UsageError
from memmodel.base.files import DATA
from memmodel.gpus import Gpu, all_gpus, gpu_ids, load_gpu
from memmodel.gpus.keys import known_sources, source_text


def gpus_with(*quantities: str) -> pytest.MarkDecorator:
    """Run a test on every GPU that lists all of `quantities`."""
    chosen = [gpu for gpu in all_gpus() if all(quantity in gpu.values for quantity in quantities)]
    return pytest.mark.parametrize("gpu", [pytest.param(gpu, id=gpu.id) for gpu in chosen])


GPUS = gpus_with()
MIB, GIB = 2**20, 2**30


def raw_entries(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every value with a source in a GPU file, as the file gives it."""
    tables = [document, document.get("tensor_TFLOPS", {}), document.get("vector_TFLOPS", {})]
    entries = [raw for table in tables for raw in table.values() if isinstance(raw, dict) and "value" in raw]
    return [*entries, *document.get("measured", [])]


def document(gpu_id: str) -> dict[str, Any]:
    return tomllib.loads((Path(DATA) / "gpus" / f"{gpu_id}.toml").read_text(encoding="utf-8"))


def sources_named() -> set[str]:
    """Every source key that some value or rate names, without its detail."""
    named = {entry["source"] for id_ in gpu_ids() for entry in raw_entries(document(id_))}
    named |= {source for table in rate_tables().values() for source in table["source"]}
    named |= {listed.source for listed in load_gpu("A100 MIG 3g.20gb").values.values()}
    return {source.partition(":")[0] for source in named}


def test_names_and_files_are_the_same_set() -> None:
    assert sorted(gpu_ids()) == sorted(path.stem for path in (Path(DATA) / "gpus").iterdir())


@GPUS
def test_every_value_has_a_source_that_resolves(gpu: Gpu) -> None:
    entries = raw_entries(document(gpu.id))
    assert len(entries) == len(gpu.values) + len(gpu.measured)  # so no bare number slipped in
    for entry in entries:
        assert entry["source"].partition(":")[0] in known_sources(), entry


def test_every_source_is_used() -> None:
    assert sources_named() == set(known_sources())


def test_source_with_a_detail_reads_as_text() -> None:
    assert load_gpu("h100-sxm").source("bandwidth").endswith("a file per device (h100_sxm)")
    assert source_text("my own measurement: 3 runs") == "my own measurement: 3 runs"


def test_nothing_in_the_data_names_a_path_of_the_machine_it_was_written_on() -> None:
    for path in Path(DATA).rglob("*.toml"):
        assert not re.search(r"(?<![\w.])/(work|tmp|home|root)/", path.read_text(encoding="utf-8")), path


@GPUS
def test_gpu_has_what_a_prediction_needs(gpu: Gpu) -> None:
    assert gpu.bandwidth > 0
    assert gpu.peak(bfloat16 if "tensor.bf16" in gpu.values else float16) > 0
    assert gpu.vendor in ("NVIDIA", "AMD", "Intel")
    assert (gpu.compute_capability is not None) == (gpu.vendor == "NVIDIA")


@GPUS
def test_values_are_in_the_units_that_their_keys_say(gpu: Gpu) -> None:
    """Bounds that no GPU of these years leaves and that a slip of 1000 or of bits for bytes would."""
    bounds = {
        "bandwidth": (200e9, 10e12),
        "capacity": (5 * GIB, 300 * GIB),
        "boost_clock": (1e9, 3e9),
        "tensor_clock": (1e9, 3e9),
        "l2": (2 * MIB, 256 * MIB),
        "shared_memory_per_sm": (64 * 2**10, 256 * 2**10),
        "context_low": (50 * MIB, (8 if gpu.memory == "unified" else 2) * GIB),
        "tdp": (40, 2000),
    }
    for quantity, (low, high) in bounds.items():
        if quantity in gpu.values:
            assert low <= gpu.value(quantity) <= high, quantity


@gpus_with("capacity")
def test_torch_sees_less_memory_than_nvidia_smi_and_the_product_name(gpu: Gpu) -> None:
    assert gpu.capacity_bytes < gpu.value("marketed_GB") * GIB  # the driver's reserve never leaves a round size
    if "nvidia_smi" in gpu.values:
        assert gpu.capacity_bytes < gpu.value("nvidia_smi")


@gpus_with("shared_memory_per_sm")
def test_a_block_gets_no_more_shared_memory_than_its_sm_has(gpu: Gpu) -> None:
    reserved = gpu.value("shared_memory_per_sm") - gpu.value("shared_memory_per_block")
    # CUDA keeps 1 KiB per block from compute capability 8.0 on
    assert reserved == (2**10 if gpu.compute_capability and gpu.compute_capability >= (8, 0) else 0)


@GPUS
def test_context_range_is_in_order(gpu: Gpu) -> None:
    if gpu.context_bytes is not None:
        low, high = gpu.context_bytes
        assert low <= high


@GPUS
def test_rates_name_a_known_architecture(gpu: Gpu) -> None:
    assert not gpu.rates or gpu.rates in rate_tables()


def test_every_rate_table_is_used() -> None:
    assert {gpu.rates for gpu in all_gpus()} - {""} == set(rate_tables())


def test_accessors_are_in_base_units() -> None:
    gpu = load_gpu("h100-sxm")
    assert gpu.bandwidth == 3352e9
    assert gpu.capacity_bytes == 84_942_979_072
    assert gpu.l2_bytes == 50 * MIB
    assert gpu.sm_count == 132
    assert gpu.boost_clock == 1980e6
    assert gpu.tensor_clock == 1830e6
    assert gpu.value("shared_memory_per_sm") == 228 * 2**10
    assert gpu.value("shared_memory_per_block") == 227 * 2**10
    assert gpu.value("registers_per_sm") == 65_536 * 4  # registers of 4 bytes
    assert gpu.context_bytes == (750 * MIB, 750 * MIB)
    assert gpu.peak(float64) == pytest.approx(66.9e12)
    assert gpu.compute_capability == (9, 0)
    assert load_gpu("t4").context_bytes == (95 * MIB, 135 * MIB)
    assert load_gpu("a30").context_bytes is None


def test_architecture_without_compute_capability_keeps_its_gfx_name() -> None:
    assert (load_gpu("mi300x").compute_capability, load_gpu("mi300x").arch) == (None, "gfx942")


def test_measurements_stay_apart_from_listed_values() -> None:
    gpu = load_gpu("h100-sxm")
    measured = {(m.what, m.dtype, m.rate, m.unit) for m in gpu.measured}
    assert ("gemm", "bf16", 794.5e12, "FLOP/s") in measured
    assert not any("gemm" in quantity for quantity in gpu.values)
    assert any(m.unit == "byte/s" and m.rate == 1832e9 for m in load_gpu("h100-pcie").measured)


@pytest.mark.parametrize(
    ("id_", "quantity", "note"),
    [
        ("h20", "vector.fp32", "in doubt"),
        ("rtx-5090", "tensor.fp8", "disputed"),
        ("b300", "sm_count", "in doubt"),
    ],
)
def test_doubtful_values_say_so(id_: str, quantity: str, note: str) -> None:
    assert note in load_gpu(id_).listed(quantity).note


def test_missing_value_names_the_gpu_the_key_and_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"no capacity_GiB is known for NVIDIA A10: .*--gpu-file can add it"):
        _ = load_gpu("a10").capacity_bytes
    with pytest.raises(UsageError, match=r"no tensor_TFLOPS\.bf16 is known for NVIDIA T4"):
        load_gpu("t4").peak(bfloat16)
    with pytest.raises(UsageError, match=r"no boost_clock_MHz is known for NVIDIA H20 96GB"):
        _ = load_gpu("h20").exp_rate


def test_unknown_quantity_is_an_error() -> None:
    with pytest.raises(UsageError, match="unknown quantity of a GPU 'bandwith': did you mean bandwidth"):
        load_gpu("t4").value("bandwith")


def test_unknown_element_type_of_a_peak_lists_the_valid_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown element type of a peak 'bf15': did you mean bf16"):
        load_gpu("h100-sxm").peak_by_name("bf15")
    with pytest.raises(UsageError, match="unknown element type of a peak 'int64'"):
        load_gpu("h100-sxm").peak(int64)


def test_balance_points_of_every_listed_type() -> None:
    """Peak over bandwidth; int8 counts operations, fp32 is the vector pipe's where no tensor peak is listed."""
    points = load_gpu("a100-80gb-sxm").balance_points()
    assert points["bf16"] == pytest.approx(312e12 / 2.039e12)
    assert points["fp32"] == pytest.approx(19.5e12 / 2.039e12)
    assert {"tf32", "fp16", "int8", "fp64"} <= points.keys()

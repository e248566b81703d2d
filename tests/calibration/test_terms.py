"""Each term of the time model against a value derived by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel import recording
from memmodel.base.dtypes import bfloat16, float32
from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.gpus import Gpu, load_gpu
from memmodel.gpus.gpu import Value
from memmodel.timing import Calibration, Constant, Curve, Machine
from memmodel.timing.fused import flash_time
from memmodel.timing.machine import CompiledFor
from memmodel.timing.products import quantised, tile_menu
from memmodel.timing.terms import (
    FUSED,
    IN_FLIGHT_PER_SM,
    LATENCY_SECONDS,
    arithmetic,
    exponentials,
    in_flight,
    loops,
    matmul,
    one_by_one,
    page_faults,
    reads_again,
    softmax_passes,
    tiles_and_waves,
    traffic,
)

MiB = 2**20


def launch(kind: str = "elementwise", sizes: tuple[int, ...] = (), dtype: Any = float32, in_place: bool = False,
           **work: Any) -> Launch:  # fmt: skip
    return Launch("kernel", Work(**work), dtype, kind, sizes, in_place=in_place)


def gpu(**values: float) -> Gpu:
    listed = {name.replace("__", "."): Value(value, "made up") for name, value in values.items()}
    return Gpu("made-up", "made up", "", "", None, listed)


def machine(device: Gpu | None = None, **constants: float | Curve) -> Machine:
    made = {name.replace("__", "."): Constant(value, "made up") for name, value in constants.items()}
    return Machine(device or gpu(), Calibration("made up", "local", {}, made))


def test_traffic_is_looked_up_on_the_curve_of_its_size() -> None:
    on = machine(bandwidth=Curve(((1e6, 1e9), (3e6, 1.5e9))))  # 1 ms and 2 ms
    assert traffic(launch(read=1e6, written=1e6), on).seconds == pytest.approx(1.5e-3)


@pytest.mark.parametrize(
    ("kind", "work", "constant"),
    [
        ("elementwise", {"read": 4, "written": 4}, "bandwidth"),
        ("broadcast", {"read": 4, "written": 4}, "bandwidth"),
        ("reduction", {"read": 8}, "reduction"),
        ("argmax", {"read": 8}, "argmax"),
        ("masked_fill", {"read": 1, "written": 7}, "masked_fill"),
        ("triangle", {"read": 4, "written": 4}, "triangle"),
        ("bernoulli", {"read": 4, "written": 4}, "bernoulli"),
    ],
)
def test_each_kind_of_kernel_has_its_own_bandwidth(kind: str, work: dict[str, int], constant: str) -> None:
    rates = {
        "bandwidth": 8.0,
        "reduction": 80.0,
        "argmax": 800.0,
        "masked_fill": 8000.0,
        "triangle": 80000.0,
        "bernoulli": 2.0,
    }
    assert traffic(launch(kind, **work), machine(**rates)).seconds == pytest.approx(8 / rates[constant])
    assert traffic(launch(kind, **work), machine(bandwidth=4.0)).seconds == 2.0  # what stands in


def test_few_sms_bound_the_loads_in_flight() -> None:
    (found,) = in_flight(launch(read=1e9), Machine(gpu(sm_count=78)))
    assert found.seconds == pytest.approx(1e9 / (78 * IN_FLIGHT_PER_SM / LATENCY_SECONDS))
    assert not [*in_flight(launch("gemm", sizes=(1, 1, 1, 1)), Machine(gpu(sm_count=78)))]
    assert not [*in_flight(launch(), machine(gpu(sm_count=78), bandwidth=1.0))]  # a measured one has it in it


@pytest.mark.parametrize(
    ("kind", "length", "l2", "passes"),
    [
        ("softmax", 1024, 1, 1.0),  # a warp's registers
        ("softmax", 4096, 1, 1.0),  # 16 KiB: shared memory
        ("softmax", 16384, 1, 2.0),  # 64 KiB, three reads and a write for one and one
        ("softmax", 16384, 1e12, 1.0),  # all re-reads hit L2
        ("softmax_backward", 4096, 1, 1 + 1 / 3),  # one of two inputs again: four passes for three
        ("softmax_backward", 1024, 1, 1.0),
    ],
)
def test_softmax_passes(kind: str, length: int, l2: float, passes: float) -> None:
    on = Machine(gpu(sm_count=100, l2=l2))
    assert softmax_passes(launch(kind, (8, length)), on) == pytest.approx(passes)


@pytest.mark.parametrize(
    ("kind", "length", "again"), [("softmax", 16384, 2), ("softmax", 4096, 0), ("elementwise", 16384, 0)]
)
def test_long_rows_are_read_again_from_l2(kind: str, length: int, again: int) -> None:
    """Three reads and a write of a row that no block holds: two of the reads at L2's bandwidth, one after the other."""
    one = launch(kind, (8, length), read=4e9, written=4e9)
    assert reads_again(one, machine(gpu(l2_bandwidth=16e9), bandwidth=1.0)) == pytest.approx(again * 4e9 / 16e9)
    assert reads_again(one, machine(gpu(), bandwidth=1.0)) == 0.0  # no L2 listed
    assert reads_again(one, Machine(gpu(l2_bandwidth=16e9))) == 0.0  # by the datasheet alone: a lower bound


def test_half_of_the_rereads_miss_halfway() -> None:
    row = 16384 * 4
    working = 100 * 2 * row * 2
    on = Machine(gpu(sm_count=100, l2=working / 1.05))  # halfway from 0.7 to 1.4
    assert softmax_passes(launch("softmax", (8, 16384)), on) == pytest.approx(1.5)


def test_products_come_in_whole_tiles_and_waves() -> None:
    # 16 x 8 = 128 tiles: two waves of 108, so 216 tiles for the time of 128
    assert quantised((1, 2048, 2048, 64), 108, [(128, 256)]) == pytest.approx(216 / 128)
    # 100 x 100 lies in one tile, beside 107 idle SMs
    assert quantised((1, 100, 100, 64), 108, [(128, 256)]) == pytest.approx(108 * 128 * 256 / 1e4)


def test_the_best_tile_of_the_menu_is_taken() -> None:
    """P V of one head, n = 4096, d = 64: 64 tiles of 64 x 64 leave fewer SMs idle than 32 of 128 x 64."""
    sizes = (1, 4096, 64, 4096)
    assert quantised(sizes, 132, [(128, 64)]) == pytest.approx(132 / 32)
    assert quantised(sizes, 132, [(128, 64), (64, 64)]) == pytest.approx(132 / 64)
    assert quantised(sizes, 132, tile_menu("fp32")) == pytest.approx(132 / 64)


@given(
    st.tuples(st.integers(1, 64), *[st.integers(1, 9000)] * 3),
    st.integers(1, 200),
    st.sampled_from(["fp32", "bf16"]),
)
def test_a_product_never_computes_less_than_itself(sizes: tuple[int, ...], sms: int, kind: str) -> None:
    best = quantised(sizes, sms, tile_menu(kind))
    assert best >= 1
    assert best <= quantised(sizes, sms, [(128, 128)])
    assert quantised((sizes[0] * sms, *sizes[1:]), sms, tile_menu(kind)) <= best  # whole waves idle no SM


@pytest.mark.parametrize(("sizes", "factor"), [((1, 2048, 2048, 64), 216 / 128), ((1, 2048, 64, 2048), 108 / 32)])
def test_a_known_tile_is_that_of_large_results(sizes: tuple[int, ...], factor: float) -> None:
    """A narrow result has a tile of the menu: 32 of 64 x 64, on 108 SMs."""
    classes = {f"matmul__bf16__{name}": Curve(((64.0, 1e12),)) for name in ("scores", "values")}
    on = machine(gpu(sm_count=108), tile__bf16__rows=128.0, tile__bf16__cols=256.0, **classes)
    (found,) = matmul(launch("gemm", sizes, bfloat16, matmul=1e9), on)
    assert found.seconds == pytest.approx(1e-3 * factor)


def test_without_a_calibration_or_its_sms_a_product_is_taken_as_it_is() -> None:
    assert tiles_and_waves((1, 100, 100, 64), "bf16", Machine(gpu(sm_count=108))) == 1.0
    assert tiles_and_waves((1, 100, 100, 64), "bf16", machine(gpu(), matmul__bf16=1e12)) == 1.0


@pytest.mark.parametrize(
    ("sizes", "rate"),
    [((1, 512, 512, 64), 64.0), ((1, 512, 64, 512), 6.4), ((1, 64, 512, 512), 6.4), ((1, 512, 512, 512), 1.0)],
)
def test_products_have_the_rate_of_their_shape(sizes: tuple[int, ...], rate: float) -> None:
    classes = {"matmul__fp32": 1.0}
    if min(sizes[1:]) < 512:
        classes |= {
            "matmul__fp32__scores": Curve(((64.0, 64.0),)),
            "matmul__fp32__values": Curve(((64.0, 6.4),)),
        }  # type: ignore[dict-item]
    (found,) = matmul(launch("gemm", sizes, matmul=64.0), machine(**classes))
    assert found.seconds == pytest.approx(64.0 / rate)


def test_page_faults_come_from_a_size_on_and_only_where_pages_are_fresh() -> None:
    on = machine(fault=2e9, fault_from=32.0 * MiB)
    assert page_faults(launch(written=32 * MiB), on) == pytest.approx(32 * MiB / 2e9)
    assert page_faults(launch(written=32 * MiB - 1), on) == 0.0
    assert page_faults(launch(written=64 * MiB), machine(bandwidth=1.0)) == 0.0
    grown = launch(in_place=True, written=64 * MiB, read=128 * MiB)
    fill = launch("masked_fill", in_place=True, read=16 * MiB, written=64 * MiB)
    assert page_faults(grown, on) == page_faults(fill, on) == 0.0
    assert page_faults(launch(written=64 * MiB), on) > 0.0


def test_exponentials_bind_where_they_are_slower_than_memory() -> None:
    (found,) = exponentials(launch(exp=1e6), machine(exp=1e9))
    assert found.seconds == pytest.approx(1e-3)
    softmax = launch("softmax", (8, 64), exp=512)
    assert not [*exponentials(softmax, machine(exp=1e9, softmax=1e9))]  # in its measured bandwidth already
    assert [*exponentials(softmax, machine(exp=1e9))]


def test_a_measured_bandwidth_holds_the_arithmetic() -> None:
    assert not [*arithmetic(launch(vector=1e6), machine(bandwidth=1.0))]
    (found,) = arithmetic(launch(vector=1e6), Machine(load_gpu("A100")))
    assert found.seconds == pytest.approx(1e6 / 19.5e12)


def test_flash_on_a_cpu_multiplies_and_then_exponentiates() -> None:
    on = machine(bandwidth=1e12, launch=1e-6, **{"flash__flops": 1e11, "flash__exp": 1e9, "flash__overlap": 0.0})
    kernel = launch("fused", (4, 16, 4, 64, 64), matmul=1e9, exp=2e6, read=1e3, written=1e3)
    assert flash_time(kernel, on).seconds == pytest.approx(1e9 / 1e11 + 2e6 / 1e9 + 1e-6)


def test_narrow_results_take_as_long_as_the_tile_that_they_are_computed_in() -> None:
    """16 columns in a tile of 128 cost eight times themselves, and 128 fill it; other products are as they were."""
    on = machine(gpu(), tile__fp32__thin=128.0, matmul__fp32=1e12)
    assert tiles_and_waves((8, 4096, 16, 4096), "fp32", on) == 8.0
    assert tiles_and_waves((8, 4096, 128, 4096), "fp32", on) == 1.0
    assert tiles_and_waves((8, 4096, 4096, 16), "fp32", on) == 1.0
    assert tiles_and_waves((8, 4096, 16, 4096), "tf32", on) == 1.0


def test_wide_tiles_of_narrow_results_come_in_waves() -> None:
    """8 heads x 16 tiles of 128 rows are 128 on 100 SMs: two waves, each tile eight times as wide as its result."""
    on = machine(gpu(sm_count=100), tile__fp32__thin=128.0, matmul__fp32=1e12)
    assert tiles_and_waves((8, 2048, 16, 2048), "fp32", on) == pytest.approx(8 * 200 / 128)


@pytest.mark.parametrize(
    ("kind", "length", "torch", "slow"),
    [
        ("softmax", 2048, (2, 8), False),  # one warp's registers
        ("softmax", 2049, (2, 8), True),
        ("softmax", 9216, (2, 8), True),
        ("softmax", 9217, (2, 8), False),  # shared memory, by vectors
        ("softmax", 4096, (2, 6), False),
        ("softmax_backward", 4096, (2, 8), False),
    ],
)
def test_softmax_in_a_blocks_registers_goes_element_by_element(
    kind: str, length: int, torch: tuple[int, int], slow: bool
) -> None:
    on = machine(broadcast=1e9)._replace(torch=torch)
    found = [ceiling.seconds for ceiling in one_by_one(launch(kind, (1000, length)), on)]
    assert found == ([pytest.approx(length * 1e-6)] if slow else [])
    assert not list(one_by_one(launch(kind, (1000, length)), machine()._replace(torch=torch)))


def test_a_fused_softmax_is_bound_by_its_loops_or_by_memory() -> None:
    """100 rows of 4096 in fp32 on 2 SMs at 1 GHz: clocks an element, or bytes a clock; a share of 1 TB/s before 2.8."""
    device = gpu(sm_count=2, tensor_clock=1e9)
    forward = launch("fused", (100, 100, 1, 1, 4096), read=1e6, written=1e6)._replace(name="fused softmax")
    backward = forward._replace(gradient=True)
    for kernel, clocks in ((forward, 409600 * FUSED["fused_clocks"]), (backward, 2e6 / FUSED["fused_bytes"])):
        assert [ceiling.seconds for ceiling in loops(kernel, machine(device))] == [pytest.approx(clocks / 2e9)]
    before = machine(device)._replace(torch=(2, 6))
    assert [*loops(backward, before)] == [*loops(forward, machine(gpu(sm_count=2)))] == []
    assert traffic(backward, machine(bandwidth=1e12)).seconds == pytest.approx(2e6 / 1e12)
    assert traffic(backward, machine(bandwidth=1e12)._replace(torch=(2, 6))).seconds == pytest.approx(
        2e6 / (FUSED["fused_before"] * 1e12)
    )


@pytest.mark.parametrize(
    ("code", "forward", "backward"),
    [
        (CompiledFor(any_head_dim=True), "fused_any", None),
        (CompiledFor(short_rows=True), "fused_short", "fused_short_backward"),
        (CompiledFor(any_head_dim=True, short_rows=True), "fused_short", "fused_short_backward"),
    ],
)
def test_code_compiled_for_other_sizes_takes_longer(code: CompiledFor, forward: str, backward: str | None) -> None:
    """Short steps slow memory down as much as loops; a symbolic head dim costs clocks of forward alone."""
    kernel = launch("fused", (100, 100, 1, 1, 4096), read=1e6, written=1e6)._replace(name="fused softmax")
    on = machine(gpu(sm_count=2, tensor_clock=1e9), bandwidth=1e12)
    for each, name in ((kernel, forward), (kernel._replace(gradient=True), backward)):
        own, other = (next(loops(each, one)).seconds for one in (on, on._replace(compiled_for=code)))
        assert other == pytest.approx(own * (FUSED[name] if name else 1.0))
        own, other = (traffic(each, one).seconds for one in (on, on._replace(compiled_for=code)))
        assert other == pytest.approx(own * (FUSED[name] if name and code.short_rows else 1.0))


@pytest.mark.parametrize(("kind", "slow"), [("float32", True), ("bfloat16", False)])
def test_where_with_a_number_computes_addresses(kind: str, slow: bool) -> None:
    """The number is a tensor without dimensions, so that not all operands are contiguous (CUDALoops.cuh)."""
    with recording.Tape() as tape:
        scores = recording.randn(4, 8, dtype=getattr(recording, kind), device="cuda")
        chosen = recording.ones(4, 8, dtype=recording.bool, device="cuda")
        recording.where(chosen, scores, float("-inf"))
        recording.where(chosen, scores, scores)
    number, tensor = (one for one in tape.program.launches() if one.name == "where")
    assert (number.kind, number.sizes) == (("broadcast", (32,)) if slow else ("elementwise", ()))
    assert tensor.kind == "elementwise"

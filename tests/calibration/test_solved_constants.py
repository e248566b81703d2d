"""Constants that are solved for or fitted come out of times made with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel.base.errors import UsageError
from memmodel.cases import on_gpu
from memmodel.events.program import Launch
from memmodel.gpus import load_gpu
from memmodel.recorder import record
from memmodel.timing import Calibration, Constant, Machine
from memmodel_validate.calibrate import flash_cuda
from memmodel_validate.calibrate.faults import first_fresh
from memmodel_validate.calibrate.flash_cpu import HEAD_DIMS, amounts, solve, work_of
from memmodel_validate.calibrate.tiles import longest, tile_of


@given(st.floats(1e9, 1e13), st.floats(1e7, 1e12))
def test_two_head_dims_give_both_rates_of_flash_on_a_cpu(flops: float, exp: float) -> None:
    equations = []
    for d in HEAD_DIMS:
        products, exponentials = amounts(work_of(d, "forward"))
        equations.append((products, exponentials, products / flops + exponentials / exp))
    assert solve(equations[0], equations[1]) == pytest.approx((flops, exp), rel=1e-3)


@pytest.mark.parametrize(("first", "second"), [(1.0, 0.5), (1.0, 40.0)])
def test_times_that_no_rates_give_are_refused(first: float, second: float) -> None:
    with pytest.raises(UsageError, match="calibrate again"):
        solve((1e9, 1e8, first), (4e9, 1e8, second))


@pytest.mark.parametrize(
    ("prefix", "phase", "held"), [("flash", "forward", {}), ("flash_backward", "backward", {"overlap": 0.0})]
)
def test_the_fit_on_a_gpu_finds_the_constants_of_made_up_times(prefix: str, phase: str, held: dict[str, float]) -> None:
    gpu = load_gpu("A100")
    known = {"launch": Constant(2e-6, "made up")}
    true = {"matmul": 0.62, "overlap": 0.4, "prologue": 2600.0, **held}
    constants = {**known, **{f"{prefix}.{name}": Constant(value, "true") for name, value in true.items()}}
    machine = Machine(gpu, Calibration("true", "local", {}, constants))
    rows = []
    for case in on_gpu(list(flash_cuda.cases()), gpu):
        launches = tuple(e for e in record(case).phases()[phase] if isinstance(e, Launch))
        rows.append((launches, flash_cuda.predicted(launches, machine)))
    found = flash_cuda.fit(rows, gpu, prefix, known, held)
    fitted = Machine(gpu, Calibration("fit", "local", {}, {**known, **{
        f"{prefix}.{name}": Constant(value, "fit") for name, value in found.items()
    }}))  # fmt: skip
    for launches, seconds in rows:
        assert flash_cuda.predicted(launches, fitted) == pytest.approx(seconds, rel=0.03)


def test_the_search_stays_within_its_bounds() -> None:
    found = flash_cuda.compass(
        lambda v: (v["matmul"] - 3) ** 2 + (v["overlap"] - 0.25) ** 2, {"matmul": 0.7, "overlap": 0.5}
    )
    assert found == pytest.approx({"matmul": 1.0, "overlap": 0.25}, abs=1e-3)


@pytest.mark.parametrize(
    ("kernel", "tile"),
    [
        ("ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_nn", (256, 128)),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", (128, 128)),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNN", (256, 128)),
        ("nvjet_sm100_tst_256x192_64x4_2x1_2cta_v_bz_NNT", (192, 256)),
        ("cutlass_80_tensorop_s16816gemm_f16_256x128_32x3_nn_align8", (128, 256)),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_128x64_8x5_nn_align1>(...)", (64, 128)),
        ("volta_sgemm_128x64_nn", (64, 128)),
        ("void gemv2T_kernel_val<int, int, float>", None),
        ("kernel_8x8", None),
        ("", None),
    ],
)  # fmt: skip
def test_tiles_are_read_from_the_names_of_kernels(kernel: str, tile: tuple[int, int] | None) -> None:
    assert tile_of(kernel) == tile


def test_the_product_is_the_longest_kernel() -> None:
    assert longest({"fill": 1.0, "gemm": 9.0}) == "gemm"
    assert longest({}) == ""


def test_fresh_pages_begin_where_every_larger_size_has_them() -> None:
    shares = {1: 0.0, 2: 1.0, 4: 0.1, 8: 0.9, 16: 1.0}
    assert first_fresh(tuple(shares), shares.__getitem__) == 8
    assert first_fresh((1, 2), lambda _: 0.0) is None

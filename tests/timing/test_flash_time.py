"""The time of fused attention, term by term, against arithmetic done here by hand."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from memmodel.attention.case import make_case
from memmodel.attention.masks import Mask, mask
from memmodel.attention.tiles import Tile
from memmodel.events.program import Launch, Program
from memmodel.gpus import load_gpu
from memmodel.recorder import record
from memmodel.timing import Calibration, Constant, KernelTime, Machine, kernel_time
from memmodel_kernels.flash import FlashTiles

H100 = load_gpu("h100-sxm")
SMS, CLOCK, HEAD_DIM = 132, 1830e6, 128
PLAIN = {"flash.matmul": 0.5, "flash.overlap": 1.0, "flash.prologue": 0.0, "flash.tail": 1.0, "launch": 0.0}


def machine(constants: Mapping[str, float]) -> Machine:
    return Machine(H100, Calibration("by hand", "local", {}, {n: Constant(v, "here") for n, v in constants.items()}))


def forward(n: int, heads: int = SMS, chosen: Mask | None = None, tile: Tile | None = None, m: int = 0) -> Launch:
    """The forward kernel of n queries and m keys (n where not given) of one key head, with tiles of 128 by 64."""
    one = tile or Tile(128, 64)
    sizes = {"heads": heads, "kv_heads": 1, "seq": n, "kv_seq": m or n, "head_dim": HEAD_DIM}
    case = make_case("flash", **sizes, mask=chosen, phase="inference")
    program = record(replace(case, tiles=FlashTiles(one, one, one, one)))
    return next(launch for launch in launches(program) if launch.name == "flash_forward")


def launches(program: Program) -> list[Launch]:
    return [event for event in program.events if isinstance(event, Launch)]


def timed(launch: Launch, **constants: float) -> KernelTime:
    return kernel_time(launch, machine({**PLAIN, **{k.replace("__", "."): v for k, v in constants.items()}}))


def flops(n: int, heads: int = SMS) -> float:
    return 4.0 * heads * n * n * HEAD_DIM


def test_full_overlap_and_full_waves_leave_the_products() -> None:
    """132 heads of one query tile: one program for each SM, and nothing but products at half of the peak."""
    found = timed(forward(128, m=4096), flash__warp_rows=64)
    assert found.binding.name == "tensor cores"
    assert found.seconds == pytest.approx(4 * SMS * 128 * 4096 * HEAD_DIM / (0.5 * 989.4e12), rel=1e-6)


@pytest.mark.parametrize(
    ("gpu", "of_an_sm"),
    [("h100-sxm", 4096), ("b200", 4096), ("a100-80gb-sxm", 2048)],  # an H100's peak; half of a B200's; an A100's own
)
def test_an_old_instruction_has_its_own_peak_per_clock_and_sm(gpu: str, of_an_sm: int) -> None:
    launch, on = forward(128, m=4096, heads=1, tile=Tile(128, 64)), load_gpu(gpu)
    constants = {**PLAIN, "flash.warp_rows": 64.0, "flash.flop_per_clock": 4096.0}
    calibration = Calibration("by hand", "local", {}, {n: Constant(v, "here") for n, v in constants.items()})
    products = next(c for c in kernel_time(launch, Machine(on, calibration)).ceilings if c.name == "tensor cores")
    assert products.rate == pytest.approx(0.5 * of_an_sm * on.sm_count * on.tensor_clock, rel=0.01)


@pytest.mark.parametrize(("best", "rate"), [(400e12, 400e12), (800e12, 0.5 * 989.4e12)])
def test_no_kernel_multiplies_faster_than_the_best_product_measured(best: float, rate: float) -> None:
    found = timed(forward(128, m=4096), flash__warp_rows=64, matmul__bf16=best)
    assert found.binding.name == "tensor cores"
    assert found.seconds == pytest.approx(4 * SMS * 128 * 4096 * HEAD_DIM / rate, rel=1e-6)


def test_what_is_not_hidden_comes_on_top() -> None:
    """Pipes: products, shared memory, and exponentials with the fp32 arithmetic of each score."""
    launch = forward(4096)
    products = flops(4096) / (0.5 * 989.4e12)
    shared = flops(4096) * 2 / (2 * 64) / (128 * SMS * CLOCK)  # every 64 rows read the other operand
    scores = SMS * 4096 * 4096
    exp_seconds = float(launch.work.exp) / (16 * SMS * CLOCK)
    softmax = exp_seconds + float(launch.work.vector) / (66.9e12 / 2) * 1980 / 1830
    assert float(launch.work.exp) == pytest.approx(scores, rel=0.02)  # and one for each row and block
    for overlap in (1.0, 0.25, 0.0):
        expected = products + (1 - overlap) * (shared + softmax)
        found = timed(launch, flash__overlap=overlap, flash__warp_rows=64)
        assert found.seconds == pytest.approx(expected, rel=2e-3)


def test_rows_that_share_a_read_decide_shared_memory() -> None:
    """mma.sync: a quarter of the program's 128 rows; half as many rows read twice as much."""
    by_warp = {c.name: c for c in timed(forward(1024)).ceilings}["shared memory"]
    narrower = {c.name: c for c in timed(forward(1024, tile=Tile(64, 64))).ceilings}["shared memory"]
    assert by_warp.amount == pytest.approx(flops(1024) * 2 / (2 * 32))
    assert narrower.amount == pytest.approx(2 * by_warp.amount)


@pytest.mark.parametrize(("heads", "waves"), [(SMS, 1), (SMS + 1, 2), (2 * SMS, 2), (2 * SMS + 1, 3)])
def test_programs_of_one_length_run_in_whole_waves(heads: int, waves: int) -> None:
    """One program for each head: a wave takes what one program takes on one SM."""
    one_program = 4 * 128 * 4096 * HEAD_DIM / (0.5 * 989.4e12 / SMS)
    found = timed(forward(128, heads=heads, m=4096), flash__warp_rows=64)
    assert found.seconds == pytest.approx(waves * one_program, rel=1e-6)


def test_a_prologue_is_paid_by_every_wave() -> None:
    launch = forward(128, heads=2 * SMS, m=4096)
    without = timed(launch, flash__warp_rows=64).seconds
    found = timed(launch, flash__warp_rows=64, flash__prologue=1830.0)  # 1 us for 128 x 128
    assert found.seconds == pytest.approx(without + 2 * 1e-6)


def test_causal_programs_fill_the_machine_and_leave_a_tail() -> None:
    """Programs of query tile i walk 2 (i + 1) key blocks of 64: their sum over the SMs, and a part of the longest."""
    tiles, heads = 8, SMS
    blocks = heads * sum(2 * (i + 1) for i in range(tiles))
    one_block = 4 * 128 * 64 * HEAD_DIM / (0.5 * 989.4e12 / SMS)
    for tail in (0.5, 1.0):
        found = timed(forward(128 * tiles, heads=heads, chosen=mask("causal")), flash__tail=tail, flash__warp_rows=64)
        assert found.seconds == pytest.approx((blocks / SMS + tail * 2 * tiles) * one_block, rel=1e-6)


def test_few_programs_take_as_long_as_the_longest() -> None:
    one_block = 4 * 128 * 64 * HEAD_DIM / (0.5 * 989.4e12 / SMS)
    found = timed(forward(1024, heads=1, chosen=mask("causal")), flash__tail=0.0, flash__warp_rows=64)
    assert found.seconds == pytest.approx(1024 / 64 * one_block, rel=1e-6)


def test_backward_has_constants_of_its_own() -> None:
    case = make_case("flash", heads=32, seq=2048, head_dim=128)
    program = record(replace(case, device=case.device._replace(arch=90)))
    backward = next(launch for launch in launches(program) if launch.name == "flash_backward")
    slow, fast = ({**PLAIN, "flash_backward.matmul": share} for share in (0.25, 0.5))
    times = [kernel_time(backward, machine(c)).binding.seconds for c in (slow, fast)]
    assert times[0] == pytest.approx(2 * times[1])


def test_without_a_calibration_it_is_the_roofline() -> None:
    found = kernel_time(forward(1024), Machine(H100))
    assert {c.name for c in found.ceilings} == {"HBM", "L2", "tensor cores", "fp32 units", "exp units", "launch"}
    assert found.binding.seconds == pytest.approx(flops(1024) / 989.4e12)


def brute(chosen: Any, n: int, m: int, rows: int, cols: int) -> list[list[int]]:
    """For every block: how many of its pairs count."""
    offset = m - n
    counts = []
    for top in range(0, n, rows):
        line = []
        for left in range(0, m, cols):
            pairs = [(i, j) for i in range(top, min(top + rows, n)) for j in range(left, min(left + cols, m))]
            first = {i: 0 if chosen.window is None else i + offset - chosen.window + 1 for i, _ in pairs}
            line.append(sum(first[i] <= j <= (i + offset if chosen.causal else m) for i, j in pairs))
        counts.append(line)
    return counts


@pytest.mark.parametrize("window", [None, 1, 5, 16, 24])
@pytest.mark.parametrize(("rows", "cols"), [(8, 8), (8, 4), (4, 8), (16, 4)])
def test_the_longest_programs_are_those_of_the_mask(window: int | None, rows: int, cols: int) -> None:
    chosen = mask("causal", window)
    for n, m in ((32, 32), (32, 48), (16, 32)):
        counts = brute(chosen, n, m, rows, cols)
        by_queries = max(sum(c > 0 for c in line) for line in counts)
        by_keys = max(sum(line[j] > 0 for line in counts) for j in range(len(counts[0])))
        assert by_queries <= chosen.most_keys(n, m, rows, cols) <= by_queries + (0 if window is None else 1)
        assert by_keys <= chosen.most_queries(n, m, rows, cols) <= by_keys + (0 if window is None else 1)


@pytest.mark.parametrize(("rows", "cols"), [(8, 8), (8, 4), (16, 4), (4, 8)])
def test_edge_blocks_are_those_that_count_in_part(rows: int, cols: int) -> None:
    counts = brute(mask("causal"), 32, 32, rows, cols)
    in_part = sum(0 < c < rows * cols for line in counts for c in line)
    assert mask("causal").edge_blocks(32, rows, cols) == in_part
    assert mask("none").edge_blocks(32, rows, cols) == 0

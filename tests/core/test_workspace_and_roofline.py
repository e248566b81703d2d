"""cuBLAS workspaces by version and GPU; ceilings, balance points and times by hand."""

from dataclasses import replace

import pytest

from memmodel import recording
from memmodel.allocator import CachingAllocator
from memmodel.allocator.cublas import workspace
from memmodel.attention.case import make_case
from memmodel.attention.masks import Mask
from memmodel.base.dtypes import bfloat16, float16, float32, uint8
from memmodel.base.errors import UsageError
from memmodel.events.program import STATE, Alloc, Free, Launch, Mark, Program
from memmodel.events.replay import replay
from memmodel.events.work import Work
from memmodel.gpus import load_gpu
from memmodel.predictor import predict
from memmodel.recorder import record
from memmodel.step import timing_bytes
from memmodel.timing import LAUNCH_SECONDS, Machine, kernel_time, share_by_ceiling

MiB = 1 << 20
SMALL = 2 * 4 * MiB + 8 * 16 * 1024  # two of 4 MiB, eight of 16 KiB: what issue pytorch#95668 reads, 8519680
LARGE = 32 * MiB
STATES = ((1, 30, STATE), (2, 40, "tensor"))  # key, MiB and role


@pytest.mark.parametrize(
    ("torch", "capability", "nbytes"),
    [
        ("2.6", (8, 0), SMALL),
        ("2.6", (9, 0), LARGE),
        ("2.11", (10, 0), SMALL),
        ("2.11.0+cu130", (12, 0), SMALL),
        ("2.12", (10, 0), LARGE),
        ("2.13", (12, 0), LARGE),
        ("2.13", (8, 9), SMALL),
        ("2.14", (11, 0), LARGE),
        ("2.13", (11, 0), SMALL),
    ],
)
def test_workspace_size(torch: str, capability: tuple[int, int], nbytes: int) -> None:
    assert workspace(torch, capability).nbytes == nbytes


def gemms(*threads: str) -> Program:
    return Program([Launch("bmm", Work(), bfloat16, cublas=True, thread=thread) for thread in threads], {}, {})


def test_a_workspace_per_thread_at_its_first_product() -> None:
    allocator = CachingAllocator()
    replay(gemms("main", "main", "autograd", "autograd"), allocator, workspace("2.13", (8, 0)))
    assert allocator.allocated == 2 * SMALL


def test_states_take_what_the_first_step_leaves() -> None:
    """30 MiB of a free segment of 40 MiB: the next step needs another one."""
    state, activation = (Alloc(key, size * MiB, (size * MiB,), uint8, "", None, role) for key, size, role in STATES)
    program = Program([Mark("inputs"), state, Mark("forward"), activation, Free(activation.key), Mark("after")], {}, {})
    allocator = CachingAllocator()
    replay(program, allocator, workspace("2.13", (8, 0)), steps=3)
    assert allocator.reserved == (40 + 40) * MiB
    first = program._replace(events=[program.events[0], state._replace(role="tensor"), *program.events[2:]])
    allocator = CachingAllocator()
    replay(first, allocator, workspace("2.13", (8, 0)), steps=3)
    assert allocator.reserved == (30 + 40) * MiB


def test_from_2_15_on_a_workspace_lives_for_one_product() -> None:
    allocator = CachingAllocator()
    replay(gemms("main", "autograd"), allocator, workspace("2.15", (8, 0)))
    assert (allocator.allocated, allocator.allocated_peak) == (0, SMALL)


@pytest.mark.parametrize("version", ["1.13", "2.3", "2.16", "two", "2"])
def test_other_torch_versions_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match="torch version"):
        workspace(version, (8, 0))


def test_balance_points() -> None:
    """Peak over bandwidth: 312 TFLOP/s over 2.039 TB/s, 989.4 over 3.352."""
    assert load_gpu("A100").balance_point(float16) == pytest.approx(312e12 / 2.039e12)
    assert load_gpu("H100").balance_point(bfloat16) == pytest.approx(989.4e12 / 3.352e12)


def launch(work: Work, dtype: object = bfloat16) -> Launch:
    return Launch("kernel", work, dtype)  # type: ignore[arg-type]


L2 = 40 * MiB  # an A100's


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (Work(matmul=1e9, read=2.039e9 + L2), "HBM"),  # products take 1e9 / 312e12 s
        (Work(matmul=312e9, read=8), "tensor cores"),
        (Work(exp=108 * 16 * 1410e6 * 1e-3), "exp units"),  # SMs x results per clock x clock
    ],
)
def test_a_kernel_takes_its_slowest_ceiling(work: Work, name: str) -> None:
    """One millisecond each: what L2 holds need not come from HBM, and a launch is hidden behind longer limits."""
    found = kernel_time(launch(work), Machine(load_gpu("A100")))
    assert found.binding.name == name
    assert found.seconds == pytest.approx(1e-3)


def test_bytes_that_l2_holds_cross_its_ports() -> None:
    """64 bytes per clock and SM: what an L2 holds takes 4.3 us on an A100, and a little takes a launch."""
    gpu = Machine(load_gpu("A100"))
    held = kernel_time(launch(Work(read=L2)), gpu)
    assert (held.binding.name, held.seconds) == ("L2", pytest.approx(L2 / (108 * 64 * 1410e6)))
    little = kernel_time(launch(Work(read=1024)), gpu)
    assert (little.binding.name, little.seconds) == ("launch", LAUNCH_SECONDS)


def test_in_place_a_line_in_l2_saves_a_read_and_a_write() -> None:
    in_place = launch(Work(read=3 * L2, written=3 * L2))._replace(in_place=True)
    ceilings = {c.name: c.amount for c in kernel_time(in_place, Machine(load_gpu("A100"))).ceilings}
    assert ceilings["HBM"] == 2 * (3 * L2 - L2)


@pytest.mark.parametrize(("n", "m"), [(1, 1000), (100, 100), (4096, 4096), (300, 1000)])
def test_a_bound_counts_the_masks_own_pairs(n: int, m: int) -> None:
    """Query i of n sees m - n + i + 1 keys, whatever the tiles: two products of d in forward, five in backward."""
    case = make_case("flash", batch=2, heads=6, kv_heads=3, seq=n, kv_seq=m, head_dim=64, mask=Mask(causal=True))
    pairs = 2 * 6 * sum(m - n + i + 1 for i in range(n))
    forward, _, backward = (e for e in record(case).launches() if e.kind == "fused")
    assert forward.least.matmul == pytest.approx(2 * 2 * 64 * pairs, rel=1e-12)
    assert backward.least.matmul == pytest.approx(5 * 2 * 64 * pairs, rel=1e-12)
    assert pairs <= forward.least.exp <= forward.work.exp
    assert forward.least.hbm_bytes == forward.work.hbm_bytes


def test_fp32_products_run_on_the_fp32_units() -> None:
    timed = kernel_time(launch(Work(matmul=19.5e9), float32), Machine(load_gpu("A100")))
    assert timed.binding.name == "fp32 units"
    assert timed.binding.seconds == pytest.approx(1e-3)


def test_shares_add_up_to_the_time() -> None:
    time = predict("A100", "naive", seq=2048)["naive"].time
    assert time is not None
    assert sum(time.shares.values()) == pytest.approx(time.seconds)
    assert share_by_ceiling(time.kernels) == time.shares


def test_naive_is_bound_by_memory_and_flash_by_arithmetic() -> None:
    report = predict("A100", ("naive", "flash"), seq=8192)
    naive, flash = (p.time for p in report.predictions)
    assert naive is not None
    assert flash is not None
    assert (naive.binding, flash.binding) == ("HBM", "tensor cores")


def test_flash_is_bound_by_exponentials_where_they_are_slower() -> None:
    """Head dim 64 on B200: 4 d = 256 FLOP per exponential, the GPU has 2250e12 / 4653e9 = 484 FLOP for each."""
    report = predict("B200", "flash", head_dim=64, phase="inference")
    time = report["flash"].time
    assert time is not None
    assert time.binding == "exp units"


def test_a_rate_that_is_not_known_leaves_the_time_out_and_says_so() -> None:
    prediction = predict("T4", "naive", dtype="bf16")["naive"]
    assert prediction.time is None
    assert "tensor_TFLOPS.bf16" in prediction.notes[0]
    without_exp = predict("H20", "naive")["naive"]
    assert without_exp.time is not None
    assert "exp ceiling is left out" in without_exp.notes[0]


def test_a_capacity_that_is_not_known_leaves_fits_open() -> None:
    memory = predict("B100", "naive", dtype="bf16").predictions[0].memory
    assert memory.capacity_bytes is None
    assert memory.fits is None


def test_the_context_is_taken_off_the_capacity() -> None:
    from memmodel.step import room_bytes

    gpu = load_gpu("H100")
    assert gpu.context_bytes is not None
    assert room_bytes(gpu) == gpu.capacity_bytes - gpu.context_bytes[1]


def test_compulsory_bytes_are_inputs_and_outputs_once() -> None:
    prediction = predict("A100", "flash", batch=2, heads=4, kv_heads=2, seq=64, kv_seq=128, head_dim=16)["flash"]
    q, kv = 2 * 4 * 64 * 16 * 2, 2 * 2 * 128 * 16 * 2
    forward = q + 2 * kv + q  # Q, K, V in, O out
    backward = forward + q + 2 * kv  # Q, K, V and dO in (as many bytes as forward's), dQ, dK, dV out
    assert prediction.compulsory_bytes == forward + backward
    assert replace(prediction, notes=()).notes == ()


def test_a_gpu_without_flash_kernels_is_noted() -> None:
    assert any("no kernels for NVIDIA T4" in note for note in predict("T4", "flash", dtype="fp16")["flash"].notes)
    assert not any("no kernels" in note for note in predict("A100", "flash")["flash"].notes)


@pytest.mark.parametrize(("gpu", "mib"), [("MI300X", 128), ("MI355X", 128), ("MI210", 32), ("Gaudi2", 0)])
def test_hipblas_has_a_workspace_of_its_own(gpu: str, mib: int) -> None:
    """docs/source/notes/hip.rst: 32 MiB by default, and 128 MiB from MI300 on; others have no BLAS of this kind."""
    memory = predict(gpu, "naive", seq=1024, phase="inference")["naive"].memory
    assert memory.workspace_bytes == mib << 20
    assert memory.allocated_peak_bytes == memory.live_peak_bytes + memory.workspace_bytes


@pytest.mark.parametrize(("torch", "peak", "kept"), [("2.8", 1, 0), ("2.9", 1, 1), ("2.11", 1, 1), ("2.12", 0, 0)])
def test_linear_layers_with_a_bias_take_cublaslt_s_workspace(torch: str, peak: int, kept: int) -> None:
    """1 MiB before torch 2.12: given back after each product, and kept from 2.9 on. A product alone takes none."""

    def end_and_peak(biased: bool) -> tuple[int, int]:
        with recording.Tape() as tape:
            tape.mark("inputs")
            x, weight, bias = recording.empty(64, 512), recording.empty(512, 512), recording.empty(512)
            tape.mark("forward")
            recording.linear(x, weight, bias if biased else None)
            tape.mark("after")
        usage = replay(tape.program, CachingAllocator(), workspace(torch, (8, 0)), steps=2).last("forward")
        return usage.allocated_end, usage.allocated_peak

    (end, most), (end_alone, most_alone) = end_and_peak(biased=True), end_and_peak(biased=False)
    assert (end - end_alone, most - most_alone) == (kept << 20, peak << 20)


def test_the_first_call_of_compiled_code_holds_l2_and_a_copy() -> None:
    """A forward pass: q, k, v and the scores, these once more, and L2, while torch.compile times kernels."""
    b, h, n, d = 1, 32, 4096, 128
    (found,) = predict("A100", "compiled", batch=b, heads=h, seq=n, head_dim=d, phase="inference").predictions
    scores, operand = 2 * b * h * n * n, 2 * b * h * n * d
    needed = 3 * operand + 2 * scores + 40 * MiB
    assert timing_bytes(record(found.case), load_gpu("A100")) == needed
    assert timing_bytes(record(found.case), load_gpu("B200")) == needed + int(86.5 * MiB)  # an L2 of 126.5 MiB
    assert any(f"at most {needed / 2**30:.2f} GiB" in note for note in found.notes)
    (large,) = predict("T4", "compiled", heads=56, seq=11 * 1024, dtype="fp16", phase="inference").predictions
    assert large.memory.fits
    assert any(note.endswith("more than the GPU has") for note in large.notes)

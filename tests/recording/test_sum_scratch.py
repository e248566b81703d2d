"""Scratch of a CUDA sum; thread blocks counted by hand from aten/src/ATen/native/cuda/Reduce.cuh."""

import numpy as np
import pytest
import sympy

from memmodel import recording
from memmodel.base.device import CPU, CUDA, Device
from memmodel.base.dtypes import float32
from memmodel.events.liveness import phase_peaks
from memmodel.events.program import Alloc
from memmodel.rules.reduce_scratch import reduction_scratch
from memmodel.tensors.layout import Strided

A100 = 108 * 2048  # resident threads


def of_everything(count: object) -> tuple[object, object]:
    return reduction_scratch(Strided((count,), float32), (), 4, A100)


@pytest.mark.parametrize(
    ("count", "scratch"),
    [
        (1000, (0, 0)),
        (512 * 256 - 512, (0, 0)),  # 255 elements for each of 512 threads: one block does it
        (
            512 * 256,
            (256 // 16 * 4, 4),
        ),  # 256 each: shared so that a thread has 16 left, and an fp32 per block
        (512 * 512, (512 // 16 * 4, 4)),
        (1 << 22, (108 * 4 * 4, 4)),  # 2^13 each would be 512 blocks; an A100 holds 108 SMs x 4
        (1 << 30, (8192 * 4, 4)),  # 2^21 each: a thread has at most 256, however many blocks that takes
    ],
)
def test_scratch_of_a_sum_of_everything(count: int, scratch: tuple[int, int]) -> None:
    assert of_everything(count) == scratch


def test_arrays_agree_with_ints() -> None:
    counts = [1000, 1 << 17, 1 << 22, 1 << 30]
    partial, counter = of_everything(np.array(counts))
    assert [*zip(partial, counter, strict=True)] == [of_everything(count) for count in counts]


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1), (2,), (0, 2)])
def test_arrays_agree_with_ints_for_any_dimensions(dims: tuple[int, ...]) -> None:
    sizes = [(8192, 768, 1), (8192, 768, 3), (1 << 20, 2, 4), (4, 4096, 64), (100000, 30, 8)]
    shape = tuple(np.array([s[i] for s in sizes]) for i in range(3))
    for i, one in enumerate(sizes[1:], 1):  # arrays stand for sizes of two or more
        many = reduction_scratch(Strided(tuple(n[1:] for n in shape), float32), dims, 4, A100)
        assert tuple(int(np.broadcast_to(x, 4)[i - 1]) for x in many) == reduction_scratch(
            Strided(one, float32), dims, 4, A100
        )


def sum_allocations(device: Device, *shape: object) -> list[tuple[str, object]]:
    with recording.Tape(device) as tape:
        x = recording.empty(*shape)
        x.sum()
    return [(event.op, event.nbytes) for event in tape.events if isinstance(event, Alloc)][1:]


def test_the_result_comes_first_and_scratch_dies_with_the_launch() -> None:
    with recording.Tape() as tape:
        x = recording.empty(8, 256, 64)
        total = x.sum()
        kinds = [type(event).__name__ for event in tape.events]
    assert kinds == ["Alloc", "Alloc", "Alloc", "Alloc", "Launch", "Free", "Free"]
    assert total.shape == ()
    assert sum_allocations(CUDA, 8, 256, 64) == [("sum", 4), ("sum scratch", 64), ("sum scratch", 4)]


def test_small_sums_sums_of_rows_and_the_cpu_take_none() -> None:
    assert sum_allocations(CUDA, 8, 256, 32) == [("sum", 4)]
    assert sum_allocations(CPU, 8, 256, 64) == [("sum", 4)]
    with recording.Tape() as tape:
        x = recording.empty(8, 4096, 4096)
        x.sum(-1, keepdim=True)
    assert sum(isinstance(event, Alloc) for event in tape.events) == 2


def test_closed_forms_leave_scratch_out() -> None:
    n = sympy.Symbol("n", positive=True, integer=True)
    assert sum_allocations(CUDA, 8, n, 64) == [("sum", 4)]


def test_a_sum_down_columns_reserves_a_blocks_width_per_output() -> None:
    """(65536, 64) fp32 down its columns on an A100, after setReduceConfig.

    A thread reads 4 neighbouring outputs: blocks of 128 threads, 16 wide (64 / 4) and 8 high. A thread sums 65536 / 8 =
    8192 rows; 221184 / 128 = 1728 blocks fit on the GPU at once, but 512 of them leave 16 rows to each, and no block
    may have more than 256: the lesser of 1728 and 512. Each keeps 16 x 4 partial sums for each of 64 outputs.
    """
    with recording.Tape() as tape:
        tape.mark("inputs")
        x = recording.empty(65536, 64)
        tape.mark("forward")
        total = x.sum(0)
        tape.mark("after")
        del total
    blocks, width = 512, 16 * 4
    assert phase_peaks(tape.program)["forward"] == 4 * 65536 * 64 + 4 * 64 + 4 * 64 * blocks * width + 4

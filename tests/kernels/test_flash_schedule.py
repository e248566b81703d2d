"""Which blocks a program meets, by running the schedule's own functions in the interpreter and by brute force."""

import itertools

import pytest
import torch
import triton
import triton.language as tl

from attention_reference import DEVICE
from memmodel_kernels.triton_flash.blocks import Band
from memmodel_kernels.triton_flash.problem import MAX_STEPS
from memmodel_kernels.triton_flash.schedule import partial_block, phases, place, quotient


@triton.jit
def visits_kernel(counts, band, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """counts (row blocks, key blocks): +1 for a visit as a whole block, +100 as a partial one."""
    i_n = tl.program_id(0)
    begin, left, full, end, right = phases(i_n * ROWS, band, ROWS, COLS)
    for j in tl.range(full, end, COLS):
        tl.atomic_add(counts + i_n * width + j // COLS, 1)
    for i in tl.range(0, left + right):
        tl.atomic_add(counts + i_n * width + partial_block(i, begin, left, end, COLS) // COLS, 100)


@triton.jit
def place_kernel(out, heads, blocks, section):
    head, block = place(tl.program_id(0), heads, blocks, section)
    tl.store(out + 2 * tl.program_id(0), head)
    tl.store(out + 2 * tl.program_id(0) + 1, block)


@triton.jit
def quotient_kernel(out, inverse, SIZE: tl.constexpr):
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + i, quotient(i, inverse))


LENGTHS = [(1, 1), (8, 8), (13, 40), (40, 13), (33, 33)]
BANDS = [(None, None), (None, 0), (None, -9), (None, 11), (-3, 0), (-3, 3), (5, 9), (-40, -20)]


@pytest.mark.parametrize(("rows", "cols"), [(8, 4), (4, 8), (8, 8)])
def test_every_visible_pair_is_visited_once_and_whole_blocks_need_no_mask(rows: int, cols: int) -> None:
    for (n, m), (first, last) in itertools.product(LENGTHS, BANDS):
        high, wide = triton.cdiv(n, rows), triton.cdiv(m, cols)
        counts = torch.zeros(high, wide, dtype=torch.int32, device=DEVICE)
        visits_kernel[(high,)](counts, Band(n, m, first, last), wide, rows, cols)
        for i_n, i_m in itertools.product(range(high), range(wide)):
            seen = [
                (first is None or j >= i + first) and (last is None or j <= i + last) and j < m
                for i in range(i_n * rows, min(n, (i_n + 1) * rows))
                for j in range(i_m * cols, (i_m + 1) * cols)
            ]
            allowed = {1, 100} if all(seen) else {100} if any(seen) else {0, 100}
            assert int(counts[i_n, i_m]) in allowed, f"n={n} m={m} band=({first}, {last}) block ({i_n}, {i_m})"


@pytest.mark.parametrize(("heads", "blocks", "section"), [(1, 5, 1), (6, 4, 1), (6, 4, 3), (7, 3, 4), (3, 4, 100)])
def test_every_block_of_every_head_has_one_program(heads: int, blocks: int, section: int) -> None:
    out = torch.empty(heads * blocks, 2, dtype=torch.int32, device=DEVICE)
    place_kernel[(heads * blocks,)](out, heads, blocks, section)
    order = [tuple(pair) for pair in out.tolist()]
    assert sorted(order) == list(itertools.product(range(heads), range(blocks)))
    first_section = [block for head, block in order if head < min(section, heads)]
    assert first_section == sorted(first_section)  # all heads of a section go through their blocks together


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 1000, 65_521, MAX_STEPS - 1])
def test_quotients_are_exact_though_the_reciprocal_is_not(blocks: int) -> None:
    """Two units in the last place more or less, as PTX allows div.full.f32."""
    reciprocal = torch.tensor(1.0, dtype=torch.float32) / blocks
    wanted = torch.arange(MAX_STEPS, dtype=torch.int32, device=DEVICE) // blocks
    for error in (-2, 0, 2):
        out = torch.empty_like(wanted)
        quotient_kernel[(16,)](out, float(reciprocal * (1 + error * 2.0**-23)), MAX_STEPS // 16)
        assert torch.equal(out, wanted)

"""The tile table: its shape, its errors, and every one of its rows run against fp64."""

import pytest
import torch
from test_flash_correctness import flash

from attention_reference import DEVICE, Case, assert_close
from memmodel.attention import tiles
from memmodel.attention.tiles import DKDV, DQ, FORWARD, FUSED, Row
from memmodel.base.dtypes import DType, bfloat16, float16, float32
from memmodel.base.errors import UsageError
from memmodel_kernels.triton_flash import choice
from memmodel_kernels.triton_flash.choice import forced
from memmodel_kernels.triton_flash.report import ARCHITECTURES

KINDS: list[tuple[DType, str]] = [(bfloat16, "ieee"), (float32, "ieee"), (float32, "tf32x3")]


EXTRAS: tuple[tuple[tiles.Extra, ...], ...] = (
    (), (tiles.DROPOUT,), (tiles.BIAS,), (tiles.PACKED, tiles.SOFTCAP), (tiles.PACKED, tiles.DROPOUT),
)  # fmt: skip


def every_row(
    architectures: tuple[int, ...], which: tuple[tuple[tiles.Extra, ...], ...] = ((),)
) -> set[tuple[DType, int, tuple[tiles.Pass, ...], Row]]:
    """(dtype, head dim, passes, row) of the table with some extras, each once."""
    return {
        (dtype, head_dim, passes, row)
        for arch in architectures
        for dtype, precision in KINDS
        for head_dim in tiles.ceilings()
        for extras in which
        for passes in tiles.launches(arch, dtype, head_dim, precision, extras)
        for row in tiles.rows(arch, dtype, head_dim, passes, precision, extras=extras)
    }


def test_a_launch_has_one_number_of_warps_and_stages() -> None:
    for _, _, _, row in every_row(ARCHITECTURES, EXTRAS):
        assert len({(t.warps, t.stages) for t in row}) == 1


def test_sides_are_powers_of_two_that_a_matrix_instruction_can_use() -> None:
    for _, _, _, row in every_row(ARCHITECTURES, EXTRAS):
        for side in [side for t in row for side in (t.rows, t.cols)]:
            assert side >= 16
            assert side & (side - 1) == 0


@pytest.mark.parametrize("arch", tiles.FAMILY)
def test_every_architecture_has_forward_and_backward_tiles_that_fit(arch: int) -> None:
    for dtype in (float16, bfloat16, float32):
        for head_dim in (1, 16, 64, 65, 96, 128, 129, 256):
            assert tiles.rows(arch, dtype, head_dim, (FORWARD,))
            assert tiles.rows(arch, dtype, head_dim, (DKDV, DQ))


def test_the_first_row_is_the_default() -> None:
    for pass_ in (FORWARD, FUSED):
        assert tiles.tile(90, bfloat16, 128, pass_) == tiles.rows(90, bfloat16, 128, (pass_,))[0][0]
    assert tiles.tile(90, bfloat16, 96, DQ) == tiles.tile(90, bfloat16, 128, DQ)


@pytest.mark.parametrize("arch", [80, 89, 120])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_row_of_scores_is_in_one_warp(arch: int, head_dim: int) -> None:
    """mma.sync: as many warps as 16 rows each, and outputs no wider than tall, of which columns would be split."""
    tile = tiles.tile(arch, bfloat16, head_dim, FORWARD)
    assert tile.rows % (16 * tile.warps) == 0
    assert tile.rows >= head_dim


def test_head_dims_are_padded_to_powers_of_two() -> None:
    assert [tiles.padded(d) for d in (1, 16, 17, 80, 96, 128, 160, 256)] == [
        16,
        16,
        32,
        128,
        128,
        128,
        256,
        256,
    ]


def test_shared_memory_by_hand() -> None:
    """Q 128x128 and two stages of K and V 128x128, two bytes each: 5 blocks of 32 KiB."""
    (tile,) = tiles.rows(90, bfloat16, 128, (FORWARD,))[0]
    assert (tile.rows, tile.cols, tile.stages) == (128, 128, 2)
    assert tiles.shared_bytes(90, bfloat16, 128, (FORWARD,), (tile,)) == 5 * 32 * 1024


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((75, bfloat16, 64, (FORWARD,)), "sm_75 is not supported: there are tiles for sm_80"),
        ((90, bfloat16, 257, (FORWARD,)), "head dim 257 is not supported: 1 to 256 are"),
        ((90, bfloat16, 0, (FORWARD,)), "head dim 0 is not supported"),
        ((120, bfloat16, 128, (FUSED,)), "no fused tile for sm_120, bfloat16, head dim 128"),
        (
            (90, bfloat16, 64, (FORWARD,), "ieee", 1000),
            r"needs \d+ bytes of shared memory .* 1000 are available",
        ),
    ],
)
def test_errors(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiles.rows(*arguments)  # type: ignore[arg-type]


HERE = ARCHITECTURES if DEVICE == "cpu" else (choice.arch(torch.device("cuda", 0)),)


def as_run(row: Row) -> object:
    """What of a row changes a result: the interpreter knows neither warps nor stages."""
    return tuple((t.rows, t.cols) for t in row) if DEVICE == "cpu" else row


ROWS = sorted(every_row(HERE), key=str)  # a set has another order in each process
RUNNABLE = list({(*key, as_run(row)): (*key, row) for *key, row in ROWS}.values())


@pytest.mark.parametrize(
    ("dtype", "head_dim", "passes", "row"),
    RUNNABLE,
    ids=[
        f"{t}-d{d}-{'+'.join(p)}-{'+'.join(f'{x.rows}x{x.cols}' for x in r)}-{r[0].warps}w" for t, d, p, r in RUNNABLE
    ],
)
def test_every_row_computes_the_same(dtype: DType, head_dim: int, passes: tuple[tiles.Pass, ...], row: Row) -> None:
    """One and a half blocks of queries against two and a half blocks of keys, causal."""
    first = row[0]
    half = torch.bfloat16 if DEVICE == "cuda" else torch.float16
    case = Case(
        h=1, g=1, n=first.rows * 3 // 2 + 1, m=first.cols * 5 // 2, d=head_dim, causal=True,
        dtype=torch.float32 if dtype == float32 else half,
    )  # fmt: skip
    with forced(passes, row):
        assert_close(flash(case, deterministic=passes != (FUSED,)), case)

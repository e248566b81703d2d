"""Identities of attention's work: they hold whatever the sizes, and tie naive and tiled attention together."""

from dataclasses import replace

import pytest

from memmodel.attention.case import Case, make_case
from memmodel.attention.masks import Mask
from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.recorder import record

SHAPE = make_case(batch=2, heads=4, seq=512, head_dim=64, phase="train")  # multiples of every tile


def work(case: Case, phase: str) -> Work:
    events = record(case).phases()[phase]
    return sum((event.work for event in events if isinstance(event, Launch)), start=Work())


def matmul(algorithm: str, phase: str, **changes: object) -> int:
    return int(work(replace(SHAPE, algorithm=algorithm, **changes), phase).matmul)  # type: ignore[arg-type]


# Two products of n x n x d per head, 2 FLOP per multiply-add.
FORWARD = 2 * 2 * (2 * 4) * 512 * 512 * 64


@pytest.mark.parametrize("algorithm", ["naive", "naive-by-hand", "flash", "chunked", "checkpointed", "compiled"])
def test_every_forward_computes_the_same_products(algorithm: str) -> None:
    assert matmul(algorithm, "forward") == FORWARD


@pytest.mark.parametrize("algorithm", ["naive", "naive-by-hand", "compiled"])
def test_naive_backward_is_twice_the_forward(algorithm: str) -> None:
    """Each product has two gradients: the step is 3 times the forward."""
    assert matmul(algorithm, "backward") == 2 * FORWARD


def test_flash_backward_is_two_and_a_half_times_the_forward() -> None:
    """Five products (S again, dV, dP, dQ, dK) against two: the step is 3.5 times the forward (Dao 2023)."""
    assert matmul("flash", "backward") == FORWARD * 5 // 2


def test_deterministic_flash_computes_scores_and_their_gradient_twice() -> None:
    """S, dP, dV, dK in one kernel and S, dP, dQ in the other: seven products."""
    assert matmul("flash-deterministic", "backward") == FORWARD * 7 // 2


def test_checkpointing_adds_the_first_product_again() -> None:
    """The recomputation stops at the last saved tensor: the second product is not repeated."""
    assert matmul("checkpointed", "backward") == 2 * FORWARD + FORWARD // 2


def test_a_causal_mask_saves_naive_nothing_and_flash_almost_half() -> None:
    causal = Mask(causal=True)
    assert matmul("naive", "forward", mask=causal) == FORWARD
    rows, cols = 128, 64  # tile i of 4 visits 2 (i + 1) of 8 key tiles
    assert matmul("flash", "forward", mask=causal) == FORWARD * (2 + 4 + 6 + 8) // (4 * 8)
    assert (512 // rows, 512 // cols) == (4, 8)


def test_exponentials_are_one_per_score() -> None:
    scores = 2 * 4 * 512 * 512
    assert work(replace(SHAPE, algorithm="naive"), "forward").exp == scores
    flash = work(replace(SHAPE, algorithm="flash"), "forward").exp
    blocks = 2 * 4 * 4 * 8  # one correction per row of each block, one logarithm per row
    assert flash == scores + blocks * 128 + 2 * 4 * 512


def test_flash_moves_only_its_boundary() -> None:
    """Q, K, V in and O out in half precision, LSE out in fp32."""
    tensor = 2 * 4 * 512 * 64 * 2
    assert work(replace(SHAPE, algorithm="flash"), "forward").hbm_bytes == 4 * tensor + 2 * 4 * 512 * 4


def test_naive_moves_the_scores_six_times() -> None:
    """Written by QK^T, read and written by the scale and by softmax, read by PV."""
    tensor, scores = 2 * 4 * 512 * 64 * 2, 2 * 4 * 512 * 512 * 2
    assert work(replace(SHAPE, algorithm="naive"), "forward").hbm_bytes == 4 * tensor + 6 * scores

"""Intervals of expected times: around the time, above the bound, and as wide as errors like it."""

import random
from typing import Any

import numpy as np
import pytest

from memmodel import UsageError, model, predict
from memmodel.algorithms import ALGORITHMS
from memmodel.gpus import all_gpus, load_gpu
from memmodel.prediction import Time
from memmodel.timing import Calibration, Machine
from memmodel.timing.ceiling import Ceiling, at_slowest
from memmodel.timing.host import NO_HOST, Host
from memmodel_evidence.bands import SHORT, bands_of, factor_around, spreads_of
from memmodel_evidence.intervals import needed
from memmodel_evidence.times import Part


def assert_ordered(bound: Time | None, expected: Time, what: object) -> None:
    assert expected.low is not None, what
    assert expected.high is not None, what
    least = bound.seconds if bound else 0.0
    assert least <= expected.low <= expected.seconds <= expected.high, what
    if expected.low > least:  # not cut off
        assert expected.high > expected.seconds, what


def drawn(seed: int) -> dict[str, Any]:
    pick = random.Random(seed)
    heads = pick.choice([1, 8, 32])
    return {
        "gpu": pick.choice(all_gpus()),
        "algorithms": pick.choice(list(ALGORITHMS)),
        "phase": pick.choice(["train", "inference", "forward"]),
        "dtype": pick.choice(["fp16", "bf16", "fp32"]),
        "mask": pick.choice(["none", "causal"]),
        "seq": pick.choice([1, 16, 300, 4096, 16384]),
        "batch": pick.choice([1, 4]),
        "heads": heads,
        "kv_heads": pick.choice([heads, 1]),
        "head_dim": pick.choice([32, 64, 128]),
        "host": pick.choice([None, 0.0, 5e-6, 80e-6]),
    }


@pytest.mark.parametrize("seed", range(60))
def test_at_least_low_expected_and_high_are_in_order(seed: int) -> None:
    asked = drawn(seed)
    try:
        (found,) = predict(**asked)
    except UsageError:
        return  # such a case, or such a kernel for it, does not exist
    if found.calibrated is not None:
        assert_ordered(found.time, found.calibrated, asked)


@pytest.mark.parametrize("gpu", ["H100", "L4", "MI300X"])
def test_they_are_in_order_for_a_whole_model(gpu: str) -> None:
    for phase in ("train", "decode"):
        found = model("gpt2", gpu, seq=64, phase=phase).prediction
        assert found.calibrated is not None
        assert_ordered(found.time, found.calibrated, phase)


def test_a_factor_holds_nine_of_ten_errors_either_way() -> None:
    """Of 19 errors, 0.9 x 20 = 18 must be within; the largest of these is -0.17, and 0.30 is beyond it."""
    errors = np.array([*(np.arange(17) / 100), -0.17, 0.30])
    assert factor_around(errors) == pytest.approx(np.exp(0.17), abs=1e-4)


def test_short_times_and_each_third_of_longer_ones_have_their_factor() -> None:
    seconds = np.array([1e-4] * 20 + [2e-3] * 10 + [1e-2] * 10 + [1e-1] * 10)
    errors = np.array([0.9] * 20 + [0.5] * 10 + [-0.2] * 10 + [0.1] * 10)
    bands = bands_of(seconds, errors)
    assert bands[0][0] == SHORT
    assert [factor for _, factor in bands] == pytest.approx(np.exp([0.9, 0.5, 0.2, 0.1]), abs=1e-4)
    few = bands_of(seconds[10:], errors[10:])  # ten short ones have no factor of their own
    assert len(few) == len(bands) - 1


def test_the_host_that_explains_a_time_leaves_no_error_to_its_kernels() -> None:
    """Of two kernels of 1 ms, 2.2 ms is within 1.1 times; any host whose launches take as long needs no factor."""
    kernels = (at_slowest("kernel", (Ceiling("HBM", 1e9, 1e12, ""),), {}),) * 2
    parts = [Part("forward", 1.0, [], kernels, False)]
    alone = Machine(load_gpu("a100-80gb-sxm"), Calibration("", "local", {}, {}), known_hosts=(NO_HOST,) * 3)
    assert needed(parts, alone, 2.2e-3) == pytest.approx(np.log(1.1), abs=1e-3)
    assert needed(parts, alone, 2e-3 / 1.25) == pytest.approx(np.log(1.25), abs=1e-3)
    slow = alone._replace(known_hosts=(NO_HOST, NO_HOST, Host(1e-3, 1e-3, 1e-3, 1e-3)))
    assert needed(parts, slow, 2.2e-3) == 0.0


def test_each_part_of_a_time_spreads_by_its_share() -> None:
    """Times of one part are 1 % off, of another 10 %, of both by halves 5.5 %: an error is the mean of its parts'."""
    shares = {"steady": np.array([1.0, 0.0, 0.5] * 20), "wild": np.array([0.0, 1.0, 0.5] * 20), "none": np.zeros(60)}
    found = spreads_of(shares, np.array([0.01, -0.1, 0.055] * 20))
    assert (found["steady"], found["wild"]) == pytest.approx((0.01, 0.1), abs=2e-4)

"""Advice: what a trace says a change would save is what the changed code takes."""

from typing import Any

import pytest
import torch
import traced_functions as functions
from traced_functions import INPUTS, SIZES

import memmodel
from memmodel.tracer.advice import Advice

LIBRARY = "torch.softmax(x, dim) instead of exp(x - max) / sum"


def by_maximum(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1)
    shifted = scores - scores.max(-1, keepdim=True)[0]
    powers = torch.exp(shifted)
    weights = powers / powers.sum(-1, keepdim=True)
    return weights @ v


def by_amax(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1)
    powers = (scores - scores.amax(dim=-1, keepdim=True).detach()).exp_()
    weights = powers.div(torch.sum(powers, dim=-1, keepdim=True))
    return weights @ v


def without_maximum(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1)
    powers = scores.exp()
    weights = powers / powers.sum(-1, keepdim=True)
    return weights @ v


def by_library(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-2, -1)
    weights = torch.softmax(scores, -1)
    return weights @ v


def sum_returned(q: Any, k: Any, v: Any) -> Any:
    powers = torch.exp(q @ k.transpose(-2, -1))
    total = powers.sum(-1, keepdim=True)
    return powers / total @ v, total


def other_dimension(q: Any, k: Any, v: Any) -> Any:
    powers = torch.exp(q @ k.transpose(-2, -1))
    return powers / powers.sum(-2, keepdim=True).sum(-1, keepdim=True) @ v


def advised(function: Any, step: str, words: str) -> list[Advice]:
    found = memmodel.trace(function, INPUTS, step=step, at=SIZES, formulas=False)
    return [tip for tip in found.advice if words in tip.change]


@pytest.mark.parametrize(
    ("change", "rewritten"), [("del scores", functions.without_scores), ("in place (/=)", functions.scaled_in_place)]
)
def test_advice_saves_what_the_rewritten_code_saves(change: str, rewritten: Any) -> None:
    found = memmodel.trace(functions.three_names, INPUTS, at=SIZES, formulas=False)
    (tip,) = (tip for tip in found.advice if change in tip.change)
    after = memmodel.trace(rewritten, INPUTS, at=SIZES, formulas=False).memory.live_peak_bytes
    assert tip.live_peak_bytes == after
    assert tip.less_bytes == found.memory.live_peak_bytes - after > 0


def test_no_advice_where_autograd_keeps_the_operand() -> None:
    """exp keeps its result: dividing it in place would break backward."""

    def kept(x: Any) -> Any:
        powers = torch.exp(x)
        probs = powers / 3.0
        return probs.sum() + powers.sum()

    found = memmodel.trace(kept, {"x": "N,N"}, step="train", at={"N": 64}, formulas=False)
    assert not [tip for tip in found.advice if "in place" in tip.change]


@pytest.mark.parametrize("step", ["train", "inference"])
@pytest.mark.parametrize("function", [by_maximum, by_amax])
def test_softmax_written_out_is_the_librarys(function: Any, step: str) -> None:
    (tip,) = advised(function, step, LIBRARY)
    after = memmodel.trace(by_library, INPUTS, step=step, at=SIZES, formulas=False)
    assert tip.live_peak_bytes == after.memory.live_peak_bytes
    assert tip.verified == "by a trace"
    quotient = function.__code__.co_firstlineno + (4 if function is by_maximum else 3)
    assert tip.change.startswith(f"line {quotient}: ")


def test_softmax_without_its_maximum_counts_too() -> None:
    (tip,) = advised(without_maximum, "train", LIBRARY)
    after = memmodel.trace(by_library, INPUTS, step="train", at=SIZES, formulas=False)
    assert tip.live_peak_bytes == after.memory.live_peak_bytes


@pytest.mark.parametrize("function", [sum_returned, other_dimension, by_library, functions.three_names])
def test_what_is_no_softmax_or_is_used_elsewhere_is_left_alone(function: Any) -> None:
    assert not advised(function, "train", LIBRARY)


def test_what_the_caller_holds_is_not_the_functions_to_delete() -> None:
    assert not advised(functions.three_names, "train", "del output")


def test_every_change_names_a_line() -> None:
    for function in (by_maximum, functions.three_names):
        for step in ("train", "inference"):
            tips = advised(function, step, "")
            assert tips
            assert all(tip.change.startswith(("line ", "each of these")) for tip in tips)


def test_checkpointing_saves_what_the_checkpointed_code_saves() -> None:
    from torch.utils.checkpoint import checkpoint

    def deep(x: Any) -> Any:
        for _ in range(6):
            x = torch.sigmoid(x)
        return x.sum()

    inputs, sizes = {"x": "N,N"}, {"N": 256}
    found = memmodel.trace(deep, inputs, step="train", at=sizes, formulas=False)
    tips = [tip for tip in found.advice if "checkpoint" in tip.change]
    after = memmodel.trace(
        lambda x: checkpoint(deep, x, use_reentrant=False), inputs, step="train", at=sizes, formulas=False
    )
    assert [tip.live_peak_bytes for tip in tips] == (
        [after.memory.live_peak_bytes] if after.memory.live_peak_bytes < found.memory.live_peak_bytes else []
    )

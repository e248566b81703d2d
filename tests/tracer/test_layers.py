"""Repeated layers: what is said in L from one model is, to the byte, what other numbers of layers take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpt import AT, TOKENS, WIDTH, Thin, training_step
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import memmodel
from memmodel.tracer.formulas.layers import FEW
from memmodel.tracer.formulas.repeats import runs
from memmodel.tracer.result import Trace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_advice")]


def sequential(layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(layers)), nn.LayerNorm(32))


def loop(layers: int) -> Callable[[Tensor], Tensor]:
    weights = [torch.ones(32, 32) for _ in range(layers)]

    def function(x: Tensor) -> Tensor:
        for weight in weights:
            x = torch.tanh(x @ weight)
        return x

    return function


def assert_forms_are(found: Trace, layers: int, other: Trace) -> None:
    """The forms of one model, at the other's number of layers, are what the other takes.

    Few layers may leave a form without their number, which then stands in the region; four or more never.
    """
    forms, sizes = found.forms, AT | {"L": layers}
    assert forms is not None
    assert forms.layers is not None
    # Of 4 checkpointed layers one branch is 346,880 bytes at 2, where 316,160 are alive.
    assert forms.layers.count < FEW or f"L at least {FEW}" in forms.region
    work = forms.matmul_flops, forms.flops, forms.hbm_bytes
    assert [forms.value(x, sizes) for x in work] == [other.work.matmul, other.work.flops, other.work.hbm_bytes]
    bytes_ = {"saved": ([forms.saved], other.memory.saved_bytes)}
    for phase, branches in forms.peaks.items():
        bytes_[f"{phase} peak"] = [b.expression for b in branches], other.memory.phase_peaks[phase]
    for what, (expressions, expected) in bytes_.items():
        counted = any(map(forms.layers.counts, expressions)) or not any(expressions)
        assert counted or (what in forms.region and forms.layers.count < FEW)
        if counted or layers == forms.layers.count:
            assert max(forms.value(x, sizes) for x in expressions) == expected


def assert_forms_are_of_all(traced: Callable[[int, bool], Trace], few: int, many: int) -> Trace:
    """The forms of few layers, whose trace is returned, are what these and many take."""
    found = traced(few, True)
    assert_forms_are(found, few, found)
    assert_forms_are(found, many, traced(many, False))
    return found


@pytest.mark.parametrize(("foreach", "few"), [(True, 2), (False, 4)])
def test_a_training_step_in_the_number_of_its_layers(foreach: bool, few: int) -> None:
    def traced(layers: int, formulas: bool) -> Trace:
        step = training_step(layers, Thin, foreach=foreach)
        return memmodel.trace(step, TOKENS, step="own", at=AT, formulas=formulas)

    forms = assert_forms_are_of_all(traced, few, 5).forms
    assert forms is not None
    assert forms.layers is not None
    assert (forms.layers.count, forms.layers.what) == (few, "model.layers.*")


@pytest.mark.parametrize("step", ["inference", "forward", "train"])
@pytest.mark.parametrize(("made", "few"), [(sequential, 4), (loop, 3)])
def test_containers_and_plain_loops(made: Callable[[int], Any], few: int, step: str) -> None:
    def traced(layers: int, formulas: bool) -> Trace:
        inputs = {"x" if made is loop else "input": "B,N,32"}
        return memmodel.trace(made(layers), inputs, step=step, at=AT, formulas=formulas)

    assert_forms_are_of_all(traced, few, 6)


def test_pytorchs_own_encoder_with_dropout() -> None:
    """The layer whose backward comes first differs: the others are counted as all but one."""

    def traced(layers: int, formulas: bool) -> Trace:
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        model = nn.Sequential(nn.Embedding(100, 32), encoder, nn.Linear(32, 100))
        return memmodel.trace(model, {"input": "B,N:int64"}, step="train", at=AT, formulas=formulas)

    assert_forms_are_of_all(traced, 4, 5)


class Checkpointed(nn.Module):
    def __init__(self, layers: int, reentrant: bool) -> None:
        super().__init__()
        self.layers, self.reentrant = nn.ModuleList(Thin() for _ in range(layers)), reentrant

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.reentrant, preserve_rng_state=False)
        return x


def encoder(layers: int, norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    return nn.Sequential(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), nn.Linear(32, 100))


@pytest.mark.parametrize(
    ("made", "inputs", "few"),
    [
        (lambda n: encoder(n, True), {"input": "B,N,32"}, 2),
        (lambda n: encoder(n, False), {"input": "B,N,32"}, 3),
        (lambda n: Checkpointed(n, False), {"x": f"B,N,{WIDTH}"}, 2),
        (lambda n: Checkpointed(n, True), {"x": f"B,N,{WIDTH}"}, 4),
    ],
    ids=["two norm first", "norm last", "checkpoint", "reentrant checkpoint"],
)
def test_what_few_layers_leave_open_is_not_said(made: Callable[[int], Any], inputs: dict[str, str], few: int) -> None:
    def traced(layers: int, formulas: bool) -> Trace:
        return memmodel.trace(made(layers), inputs, step="train", at=AT, formulas=formulas)

    assert_forms_are_of_all(traced, few, 6)


def test_weights_of_a_layer_are_counted_by_hand() -> None:
    """32 * 32 weights and 32 biases per layer, in fp32; alive: the weights, x and two results, as under no_grad."""
    forms = memmodel.trace(sequential(4), {"input": "B,N,32"}, at=AT).forms
    assert forms is not None
    (branch,) = forms.peaks["forward"]
    assert branch.expression.coeff(forms.layers.symbol) == 4 * (32 * 32 + 32)  # type: ignore[union-attr]
    assert "L = 4 layers (*)" in forms.region


def test_no_layers_where_a_number_of_equal_births_is_a_coincidence() -> None:
    """Two equal products beside two unlike parts: nothing repeats."""

    class Unlike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 16)])

        def forward(self, x: Tensor) -> Any:
            for _ in range(2):
                x = x @ torch.ones(8, 8)
            return self.parts[1](self.parts[0](x))

    forms = memmodel.trace(Unlike(), {"x": "B,8"}, at={"B": 4}).forms
    assert forms is not None
    assert forms.layers is None


def test_a_loop_inside_that_runs_as_often_as_there_are_layers_stays_a_number() -> None:
    """It works with no layer's parameters: its rounds would not grow with the layers."""

    class Both(nn.Module):
        def __init__(self, layers: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(layers))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            kept = []
            for _ in range(4):
                kept.append(x * 2.0)
            return torch.stack(kept).sum(0)

    def traced(layers: int) -> Trace:
        return memmodel.trace(Both(layers), {"x": "B,N,32"}, step="train", at=AT)

    assert_forms_are(traced(4), 6, traced(6))


@pytest.mark.parametrize(
    ("signs", "count", "expected"),
    [
        ("abcabcabc", 3, [(0, 3)]),
        ("xabababy", 3, [(1, 2)]),
        ("aabaab", 2, [(0, 3)]),
        ("aaaa", 2, []),  # two rounds of two, or four of one: not known
        ("abcd", 2, []),
        ("abab", 3, []),
        ("xyxy.cdecde", 2, [(0, 2), (5, 3)]),
    ],
)
def test_runs(signs: str, count: int, expected: list[tuple[int, int]]) -> None:
    assert runs(signs, count) == expected

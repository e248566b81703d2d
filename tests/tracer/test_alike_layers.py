"""Models with many alike layers: the run extrapolated from a few of them is, event for event, the run of all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpt import AT, TOKENS, Gpt, Thin, training_step
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import memmodel
from memmodel.base.device import CUDA
from memmodel.events.program import Program
from memmodel.tracer import alike
from memmodel.tracer.alike import extrapolated
from memmodel.tracer.growth import in_order
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.watch.run import Setting, Traced, traced

LAYERS = 7


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs of few layers are made for models that by themselves would be traced whole."""
    monkeypatch.setattr(alike, "_WORTH_IT", LAYERS - 1)


class Model(nn.Module):
    """Layers in a loop, checkpointed or not."""

    def __init__(self, layers: int = LAYERS, checkpointed: bool = False) -> None:
        super().__init__()
        self.layers, self.checkpointed = nn.ModuleList(Thin() for _ in range(layers)), checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpointed else layer(x)
        return x


class Alternating(Model):
    """Every second layer keeps what it needs, the others recompute it."""

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = checkpoint(layer, x, use_reentrant=False) if number % 2 else layer(x)
        return x


class Numbered(Model):
    """A loop over numbers, which are not those of fewer layers."""

    def forward(self, x: Tensor) -> Tensor:
        for number in range(LAYERS):
            x = self.layers[number](x)
        return x


def clipped(layers: int) -> Callable[[Tensor, Tensor], None]:
    model = Gpt(layers, Thin)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(tokens: Tensor, targets: Tensor) -> None:
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def run(setting: Setting) -> Traced:
    return traced(setting._replace(iterations=3, until_it_repeats=True), AT)


def setting_of(function: Any, step: str, inputs: dict[str, str]) -> Setting:
    return Setting(function, inputs_of(inputs), step, CUDA)


def by_birth(program: Program, known: dict[int, Any]) -> dict[int, Any]:
    """What is known by storage, by its place among the births; a storage as what is known too."""
    numbers = {birth.key: number for number, birth in enumerate(program.births())}
    return {numbers[key]: value for key, value in known.items() if key in numbers}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "step", "inputs"),
    [
        (clipped(LAYERS), "own", TOKENS),
        (Model(checkpointed=True), "train", {"x": "B,N,48"}),
        (Model(), "inference", {"x": "B,N,48"}),
    ],
    ids=["clipped", "checkpointed", "inference"],
)
def test_the_extrapolated_run_is_the_run_of_all_layers(function: Any, step: str, inputs: dict[str, str]) -> None:
    setting = setting_of(function, step, inputs)
    found, whole = extrapolated(setting, run), run(setting)
    assert found is not None
    ours, theirs = found.whole.program, whole.program
    assert in_order(ours) == in_order(theirs)
    assert by_birth(ours, ours.names) == by_birth(theirs, theirs.names)
    assert by_birth(ours, dict(ours.groups)) == by_birth(theirs, dict(theirs.groups))
    assert by_birth(ours, found.whole.last_use) == by_birth(theirs, whole.last_use)
    assert by_birth(ours, found.whole.forward_of) == by_birth(theirs, whole.forward_of)
    assert len(ours.gradients) == len(theirs.gradients)
    assert found.whole.operators == whole.operators


@pytest.mark.parametrize("made", [Alternating, Numbered, lambda: Model(5)], ids=["alternating", "numbered", "few"])
def test_other_models_are_traced_whole(made: Callable[[], nn.Module]) -> None:
    assert extrapolated(setting_of(made(), "train", {"x": "B,N,48"}), run) is None


def test_few_layers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = [], Thin.forward

    def counted(self: Thin, x: Tensor) -> Any:
        calls.append(1)
        return forward(self, x)

    monkeypatch.setattr(Thin, "forward", counted)
    found = memmodel.trace(training_step(16, Thin), TOKENS, step="own", at=AT)
    assert len(calls) <= 3 * (3 + 4 + 5 + 4)  # steps of three runs in numbers and one in letters
    assert found.forms is not None
    assert "L = 16 layers" in found.forms.region
    assert any("of 16 equal layers" in note for note in found.notes)
    assert found.forms.peak(AT) == found.memory.live_peak_bytes
    assert len([name for name in found.program.names.values() if name.endswith("up.weight")]) == 16


def test_the_largest_size_is_proved_on_each_side() -> None:
    """Beside the step that was asked for, the answer and the next size are traced, and one guess at most."""
    sizes: list[int] = []

    def function(x: Tensor) -> Tensor:
        sizes.append(int(x.shape[0]) if isinstance(x.shape[0], int) else 0)
        return torch.softmax(x @ x.transpose(-2, -1), -1) @ x

    found = memmodel.trace(function, {"x": "B,N,64"}, at={"B": 64, "N": 1024}, gpu="T4", over="B")
    assert found.largest is not None
    assert {found.largest.largest, found.largest.first_failing} <= set(sizes)
    assert len({size for size in sizes if size}) <= 4

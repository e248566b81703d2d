"""What the peak of a training step, and of generation, is made of."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import memmodel
from memmodel.events.groups import by_kind

B, C, CLASSES, LAYERS = 32, 64, 1024, 3
F32 = 4


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)

    def forward(self, x: Tensor) -> Any:
        return x + self.down(self.up(x).relu())


class Model(nn.Module):
    def __init__(self, checkpoints: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, C)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(C, CLASSES, bias=False)
        self.checkpoints = checkpoints

    def forward(self, tokens: Tensor) -> Any:
        x = self.embed(tokens)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpoints else layer(x)
        return self.head(x)


WEIGHTS = F32 * (2 * CLASSES * C + LAYERS * 8 * C * C)
HIDDEN = F32 * B * C


def trained(model: nn.Module, optimizer: optim.Optimizer, tokens: Tensor) -> None:
    functional.cross_entropy(model(tokens), tokens).backward()
    optimizer.step()
    optimizer.zero_grad()


def made() -> tuple[nn.Module, optim.Optimizer]:
    model = Model(checkpoints=False)
    return model, optim.AdamW(model.parameters())


def step_of_others() -> Any:
    model, optimizer = made()
    return lambda tokens: trained(model, optimizer, tokens)


def step_of_its_own() -> Any:
    def step(tokens: Tensor) -> None:
        model, optimizer = made()
        for _ in range(2):
            trained(model, optimizer, tokens)

    return step


@pytest.mark.parametrize("made_step", [step_of_others, step_of_its_own])
def test_the_peak_of_an_optimizer_on_lists(made_step: Callable[[], Any]) -> None:
    """Weights, gradients, two states, and the root of the second: five times the weights; few tokens add little."""
    found = memmodel.trace(made_step(), {"tokens": "B:int64"}, step="own", at={"B": B}, formulas=False)
    kinds = by_kind(found.memory.groups)
    assert kinds["parameters"] == kinds["gradients"] == WEIGHTS
    assert kinds["optimizer"] == 2 * WEIGHTS
    assert WEIGHTS <= kinds["temporary"] <= WEIGHTS + 2 * F32  # and the loss
    assert sum(kinds.values()) == found.memory.live_peak_bytes


def forward_peak(checkpoints: bool) -> dict[str, int]:
    """Groups at the peak where no optimizer runs: in the loss's backward, with all that is saved."""

    model = Model(checkpoints)

    def loss(tokens: Tensor) -> Any:
        return functional.cross_entropy(model(tokens), tokens)

    many = 4096
    found = memmodel.trace(loss, {"tokens": "B:int64"}, step="train", at={"B": many}, formulas=False)
    return {group: nbytes // many for group, nbytes in found.memory.groups.items()}


def test_activations_are_told_apart_by_module() -> None:
    groups = forward_peak(checkpoints=False)
    # what relu made is kept, and each layer's sum: it is the next one's input, or the head's
    assert groups["activations layers.*"] == LAYERS * F32 * (4 * C + C)
    assert groups["activations embed"] == F32 * C
    assert groups["logits"] == 3 * F32 * CLASSES  # log-probabilities, and two gradients


def test_inputs_of_checkpoints_are_activations() -> None:
    groups = forward_peak(checkpoints=True)
    assert groups["activations layers.*"] == LAYERS * F32 * C  # the inputs of all but the first, and the head's
    assert groups["activations embed"] == F32 * C


class KVCache:
    def __init__(self) -> None:
        self.keys: Tensor | None = None

    def update(self, keys: Tensor) -> Tensor:
        self.keys = keys.clone() if self.keys is None else torch.cat([self.keys, keys])
        return self.keys


def test_a_cache_is_told_apart() -> None:
    def generate(x: Tensor) -> Tensor:
        cache = KVCache()
        for _ in range(4):
            x = cache.update(x * 1.0)[-1:] + 0.0
        return cache.update(x)

    found = memmodel.trace(generate, {"x": "B,64"}, at={"B": 8}, formulas=False)
    last, before = 8 + 1 + 1 + 1 + 1, 8 + 1 + 1 + 1  # rows of the cache, and of the one that it replaces
    assert found.memory.groups["kv_cache"] == (last + before) * 64 * F32

"""A GPT of several blocks, and its training step with AdamW."""

from collections.abc import Callable
from typing import Any

import torch
from block import Block, RMSNorm
from torch import Tensor, nn

WIDTH, VOCABULARY = 48, 96
AT = {"B": 2, "N": 40}
TOKENS = {"tokens": "B,N:int64", "targets": "B,N:int64"}


class Thin(nn.Module):
    """A layer of few operators, for what does not depend on which they are."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = RMSNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Any:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Gpt(nn.Module):
    def __init__(self, layers: int, kind: type[nn.Module] = Block) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(kind() for _ in range(layers))
        self.norm = RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def training_step(layers: int, kind: type[nn.Module] = Block, **options: Any) -> Callable[[Tensor, Tensor], None]:
    model = Gpt(layers, kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)

    def step(tokens: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()

    return step

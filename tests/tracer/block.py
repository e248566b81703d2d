"""A transformer block as model code has it: RMSNorm, rotary embedding, SwiGLU; and a training step with AdamW."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

B, N, C, H = 2, 40, 48, 4


def rotary(x: Tensor) -> Tensor:
    n, d = x.shape[-2:]
    frequency = 1.0 / (10000 ** (torch.arange(0, d, 2, dtype=torch.float32) / d))
    angle = torch.outer(torch.arange(n, dtype=torch.float32), frequency)
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Block(nn.Module):
    def __init__(self, width: int = C, heads: int = H) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotary(q), rotary(k)
        scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        probs = scores.masked_fill(future, float("-inf")).softmax(-1)
        x = x + self.out((probs @ v).transpose(1, 2).reshape(b, n, c))
        y = self.norm2(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))


def training_step(**options: Any) -> tuple[Block, Callable[[Tensor], None]]:
    """A block and a step on it: forward, backward, AdamW."""
    model = Block()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()

    return model, step

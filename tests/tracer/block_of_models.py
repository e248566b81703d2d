"""What the small models are made of: sizes, a block of a transformer, and steps that train them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

B, N, C, H = 3, 48, 32, 4
D = C // H
CLASSES = 50
Step = Callable[[Tensor], Tensor]


def heads(x: Tensor, number: int = H) -> Tensor:
    return x.view(B, N, number, -1).transpose(1, 2)


def together(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(B, N, -1)


def classes() -> Tensor:
    return torch.zeros(B, N, dtype=torch.int64)


class Attention(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=bias), nn.Linear(C, C, bias=bias)

    def forward(self, x: Tensor) -> Any:
        q, k, v = map(heads, self.qkv(x).chunk(3, dim=-1))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(D)).softmax(dim=-1)
        return self.out(together(weights @ v))


class Block(nn.Module):
    """Norms before or after; dropout in four places."""

    def __init__(self, pre: bool = True, drop: float = 0.0) -> None:
        super().__init__()
        self.pre, self.drop = pre, nn.Dropout(drop)
        self.first, self.second, self.attention = nn.LayerNorm(C), nn.LayerNorm(C), Attention()
        self.mlp = nn.Sequential(
            nn.Linear(C, 4 * C), nn.GELU(), nn.Dropout(drop), nn.Linear(4 * C, C), nn.Dropout(drop)
        )

    def forward(self, x: Tensor) -> Any:
        if self.pre:
            x = x + self.drop(self.attention(self.first(x)))
            return x + self.mlp(self.second(x))
        x = self.first(x + self.drop(self.attention(x)))
        return self.second(x + self.mlp(x))

"""The language model of the recorded steps, its losses and its AdamW, in PyTorch: the operators that its scripts run.

RMS norms in fp32, rotary positions from a table, attention by hand under a causal mask, SwiGLU, an untied head.
Source: the assignment basics of Stanford's CS336 (cs336_basics/model.py, nn_utils.py, optimizer.py).
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

VOCABULARY = 10_000
EPS = 1e-5


class Linear(nn.Module):
    """x @ weight^T, without a bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return torch.einsum("...i,oi->...o", x, self.weight)


class Norm(nn.Module):
    """RMS norm in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same, in the type of x."""
        dtype = x.dtype
        x = x.to(torch.float32)
        over = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
        x = x * over
        return (self.weight * x).to(dtype)


class Rotary(nn.Module):
    """Rotary positions, from a table of cosines and sines."""

    table: Tensor

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(2, positions, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(..., n, width) -> the same, each pair of channels turned."""
        even, odd = x.reshape(*x.shape[:-1], -1, 2).movedim(-1, 0).unbind(0)
        cos, sin = self.table[:, : x.shape[-2], :].unbind(0)
        first = cos * even - sin * odd
        second = sin * even + cos * odd
        return torch.concat((first, second), dim=-1)


def softmax(x: Tensor) -> Tensor:
    """The softmax over the last dimension, by hand."""
    shifted = x - torch.max(x, dim=-1, keepdim=True)[0]
    exponentials = torch.exp(shifted)
    return exponentials / torch.sum(exponentials, dim=-1, keepdim=True)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of (..., n, d) under a mask of (..., n, n), True where a key is seen."""
    scores = torch.einsum("...qd,...kd->...qk", q, k) / math.sqrt(k.shape[-1])
    scores = torch.where(mask, scores, float("-inf"))
    weights = softmax(scores)
    return torch.einsum("...qk,...kd->...qd", weights, v)


class Attention(nn.Module):
    """Causal attention over `heads` heads."""

    def __init__(self, width: int, heads: int, rotary: Rotary) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.to_q, self.to_k, self.to_v, self.to_out = (Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, width) -> the same."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        q, k, v = (y.reshape(*y.shape[:-1], self.heads, -1).transpose(-2, -3) for y in (q, k, v))
        q = self.rotary(q)
        k = self.rotary(k)
        positions = torch.arange(x.shape[-2], device=x.device)
        mask = (positions[:, None] >= positions[None, :])[None]
        out = attend(q, k, v, mask)
        out = out.transpose(-2, -3).reshape(*x.shape)
        result: Tensor = self.to_out(out)
        return result


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.down, self.up = Linear(width, inner), Linear(inner, width), Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        result: Tensor = self.down(silu(self.gate(x)) * self.up(x))
        return result


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), by hand."""
    return x * torch.sigmoid(x)


class Block(nn.Module):
    """A layer: attention and feed-forward, each after a norm and beside the stream."""

    def __init__(self, width: int, inner: int, heads: int, rotary: Rotary) -> None:
        super().__init__()
        self.attention, self.feed = Attention(width, heads, rotary), FeedForward(width, inner)
        self.first_norm, self.second_norm = Norm(width), Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, width) -> the same."""
        attended = self.attention(self.first_norm(x))
        between = x + attended
        fed = self.feed(self.second_norm(between))
        result: Tensor = between + fed
        return result


class LanguageModel(nn.Module):
    """The model; `segment`: layers to a checkpoint, 0 for none."""

    def __init__(self, layers: int, width: int, inner: int, heads: int, positions: int, segment: int = 0) -> None:
        super().__init__()
        self.segment = segment
        self.embedding = nn.Parameter(torch.empty(VOCABULARY, width))
        self.rotary = Rotary(positions, width // heads)
        self.layers = nn.ModuleList(Block(width, inner, heads, self.rotary) for _ in range(layers))
        self.norm, self.head = Norm(width), Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, n) tokens -> logits (b, n, vocabulary)."""
        x = embedded = self.embedding[tokens, :]
        if not self.segment:
            for layer in self.layers:
                x = layer(x)
        else:
            del embedded
            for start in range(0, len(self.layers), self.segment):
                x = checkpoint(_run, x, tuple(self.layers)[start : start + self.segment], use_reentrant=False)
        x = self.norm(x)
        logits: Tensor = self.head(x)
        return logits


def without_data(*sizes: int) -> LanguageModel:
    """A `LanguageModel` on the meta device."""
    with torch.device("meta"):
        return LanguageModel(*sizes)


def _run(x: Tensor, layers: Iterable[nn.Module]) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy, by hand."""
    losses = -_log_softmax(logits)
    return torch.mean(torch.gather(losses, -1, targets.unsqueeze(-1)))


def _log_softmax(x: Tensor) -> Tensor:
    highest = torch.max(x, dim=-1, keepdim=True)[0]
    x = x - highest
    return x - torch.log(torch.sum(torch.exp(x), dim=-1, keepdim=True))


class AdamW(torch.optim.Optimizer):
    """AdamW by hand, a parameter at a time: its moments are made anew in each step, beside two tensors of zeros."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            rate = group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.data
                state = self.state[parameter]
                parameter.data -= rate * 0.01 * parameter.data
                mean_before = state.get("mean", torch.zeros_like(gradient))
                square_before = state.get("square", torch.zeros_like(gradient))
                mean = 0.9 * mean_before + (0.1 * gradient)
                square = 0.999 * square_before + (0.001 * torch.square(gradient))
                parameter.data -= rate * mean / (torch.sqrt(square) + 1e-8)
                state["mean"] = mean
                state["square"] = square

"""Functions as users have them, each with its inputs; made anew for each run. What they return is a loss."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

C = 16
Function = Callable[..., Tensor]
QKV = dict.fromkeys("qkv", "B,H,N,8")
X = {"x": "B,N,16"}
IMAGE = {"x": "B,3,h,w"}


def learned_temperature() -> Function:
    temperature = nn.Parameter(torch.zeros(1, 1, 1))

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = (functional.normalize(x, dim=-1) for x in (q, k))
        scores = q @ k.mT * temperature.clamp(max=math.log(100)).exp()
        return (scores.softmax(-1) @ v).square().mean()

    return step


def layers_in_a_list() -> Function:
    layers = [nn.Linear(C, C) for _ in range(2)]

    def step(x: Tensor) -> Tensor:
        for layer in layers:
            x = x + functional.silu(layer(x))
        return x.square().mean()

    return step


def window_with_look_back() -> Function:
    def step(q: Tensor, k: Tensor, v: Tensor, width: int = 8) -> Tensor:
        b, h, n, d = q.shape
        q, k, v = (x.reshape(b * h, n // width, width, d) for x in (q, k, v))
        k, v = (torch.cat((functional.pad(x, (0, 0, 0, 0, 1, 0))[:, :-1], x), dim=2) for x in (k, v))
        place = torch.arange(n).view(n // width, width)
        before = torch.cat((functional.pad(place, (0, 0, 1, 0), value=-1)[:-1], place), dim=1)
        scores = torch.einsum("bwid,bwjd->bwij", q, k)
        scores.masked_fill_(place[:, :, None] < before[:, None, :], -1e9)
        return torch.einsum("bwij,bwjd->bwid", scores.softmax(-1), v).square().mean()

    return step


def shifted_windows() -> Function:
    qkv, side = nn.Linear(3, 9), 4

    def step(x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        x = x.permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
        x = x.view(b, h // side, side, w // side, side, 3).transpose(2, 3).reshape(-1, side * side, 3)
        q, k, v = qkv(x).chunk(3, -1)
        return ((q @ k.mT).softmax(-1) @ v).square().mean()

    return step


def next_token_loss() -> Function:
    head = nn.Linear(C, 30)

    def step(x: Tensor, t: Tensor) -> Tensor:
        logits = head(x)[:, :-1].contiguous()
        return functional.cross_entropy(logits.view(-1, 30), t[:, 1:].reshape(-1))

    return step


def pooled_twice() -> Function:
    def step(x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.max_pool2d(x, 2).exp(), 2).square().mean()

    return step


def softshrunk() -> Function:
    return lambda x: functional.softshrink(x).square().mean()


def padding_by_keys() -> Function:
    attention = nn.MultiheadAttention(C, 4, batch_first=True)
    return lambda x, pad: attention(x, x, x, key_padding_mask=pad)[0].square().mean()


def norms_apart() -> Function:
    def step(a: Tensor, b: Tensor) -> Tensor:
        nearest = torch.cdist(a, b).topk(3, largest=False).values
        return nearest.mean()

    return step


def long_convolution() -> Function:
    kernel = nn.Parameter(torch.zeros(C, 12))

    def step(x: Tensor) -> Tensor:
        n = x.shape[1]
        y = torch.fft.rfft(x.mT, n=2 * n) * torch.fft.rfft(kernel, n=2 * n)
        return torch.fft.irfft(y, n=2 * n)[..., :n].square().mean()

    return step


AT = {"B": 2, "H": 3, "N": 40, "h": 8, "w": 12}
ELSEWHERE = {"B": 3, "H": 5, "N": 72, "h": 16, "w": 8}
FUNCTIONS: dict[str, tuple[Callable[[], Function], dict[str, Any]]] = {
    "learned temperature": (learned_temperature, QKV),
    "layers in a list": (layers_in_a_list, X),
    "window with look-back": (window_with_look_back, QKV),
    "shifted windows": (shifted_windows, IMAGE),
    "next-token loss": (next_token_loss, {**X, "t": "B,N:int64"}),
    "pooled twice": (pooled_twice, IMAGE),
    "softshrink": (softshrunk, X),
    "padding by keys": (padding_by_keys, {**X, "pad": "B,N:bool"}),
    "long convolution": (long_convolution, X),
    "distances": (norms_apart, {"a": "B,N,16", "b": "B,N,16"}),
}

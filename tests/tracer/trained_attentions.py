"""Attention as models have it, trained for a step: heads that share keys, windows, positions, linear attention."""

from collections.abc import Callable
from typing import Any

import torch
from block_of_models import B, C, D, H, N, Step, heads, together
from torch import Tensor, nn
from torch.nn import functional


def multi_query() -> Step:
    q, kv, out = nn.Linear(C, C), nn.Linear(C, 2 * D), nn.Linear(C, C)

    def step(x: Tensor) -> Any:
        k, v = kv(x).split(D, dim=-1)
        weights = torch.einsum("bhid,bjd->bhij", heads(q(x)), k).mul(D**-0.5).softmax(-1)
        return out(together(torch.einsum("bhij,bjd->bhid", weights, v)))

    return step


def grouped_queries() -> Step:
    q, kv = nn.Linear(C, C, bias=False), nn.Linear(C, C, bias=False)

    def step(x: Tensor) -> Any:
        k, v = (heads(y, H // 2).repeat_interleave(2, dim=1) for y in kv(x).chunk(2, -1))
        causal = torch.ones(N, N, dtype=torch.bool).tril()
        scores = (heads(q(x)) @ k.mT * D**-0.5).masked_fill(~causal, float("-inf"))
        return together(scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v)

    return step


def window_by_unfold() -> Step:
    qkv, width = nn.Linear(C, 3 * C), 8

    def step(x: Tensor) -> Any:
        q, k, v = qkv(x).chunk(3, -1)
        k, v = (functional.pad(y, (0, 0, width - 1, 0)).unfold(1, width, 1) for y in (k, v))
        weights = torch.einsum("bnc,bncw->bnw", q, k).softmax(-1)
        return torch.einsum("bnw,bncw->bnc", weights, v)

    return step


def rotary_halves() -> Step:
    qkv = nn.Linear(C, 3 * C)
    angle = torch.outer(torch.arange(N).float(), 1e4 ** (-torch.arange(0, D, 2).float() / D))
    both = torch.cat((angle, angle), -1)

    def turned(x: Tensor) -> Tensor:
        first, second = x[..., : D // 2], x[..., D // 2 :]
        return x * both.cos() + torch.cat((-second, first), dim=-1) * both.sin()

    def step(x: Tensor) -> Any:
        q, k, v = map(heads, qkv(x).chunk(3, -1))
        return together((turned(q) @ turned(k).mT).softmax(-1) @ v)

    return step


def rotary_pairs() -> Step:
    qkv = nn.Linear(C, 3 * C)

    def turned(x: Tensor) -> Tensor:
        angle = torch.einsum("i,j->ij", torch.arange(N).float(), 1.0 / 1e4 ** (torch.arange(0, D, 2) / D))
        even, odd = x[..., ::2], x[..., 1::2]
        cos, sin = angle.cos()[None, None], angle.sin()[None, None]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)

    def step(x: Tensor) -> Any:
        q, k, v = qkv(x).view(B, N, 3, H, D).permute(2, 0, 3, 1, 4)
        return together((turned(q) @ turned(k).mT).softmax(-1) @ v)

    return step


def rotary_complex() -> Step:
    qkv = nn.Linear(C, 3 * C)
    turns = torch.polar(torch.ones(N, D // 2), torch.ones(N, D // 2))

    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(B, N, H, -1, 2))
        return torch.view_as_real(pairs * turns[:, None]).flatten(3).type_as(x).transpose(1, 2)

    def step(x: Tensor) -> Any:
        q, k, v = (y.view(B, N, H, D) for y in qkv(x).chunk(3, -1))
        return together((turned(q) @ turned(k).mT).softmax(-1) @ v.transpose(1, 2))

    return step


def position_table() -> Step:
    qkv, table = nn.Linear(C, 3 * C), nn.Parameter(torch.zeros(2 * N - 1, H))
    index = torch.arange(N)[:, None] - torch.arange(N)[None, :] + N - 1

    def step(x: Tensor) -> Any:
        q, k, v = qkv(x).reshape(B, N, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
        bias = table[index.view(-1)].view(N, N, H).permute(2, 0, 1).contiguous()
        return together(((q * D**-0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1) @ v)

    return step


def bucketed_positions() -> Step:
    qkv, table = nn.Linear(C, 3 * C, bias=False), nn.Embedding(8, H)

    def step(x: Tensor) -> Any:
        distance = (torch.arange(N)[None, :] - torch.arange(N)[:, None]).neg().clamp(min=0)
        large = (torch.log(distance.float() / 4 + 1e-6) * 2).to(torch.int64) + 4
        bucket = torch.where(distance < 4, distance, torch.minimum(large, torch.full_like(large, 7)))
        q, k, v = map(heads, qkv(x).chunk(3, -1))
        return together((q @ k.mT + table(bucket).permute(2, 0, 1)[None]).softmax(-1) @ v)

    return step


def alibi() -> Step:
    qkv = nn.Linear(C, 3 * C)

    def step(x: Tensor) -> Any:
        q, k, v = map(heads, qkv(x).chunk(3, -1))
        slopes = 2.0 ** (-8.0 * torch.arange(1, H + 1) / H)
        bias = slopes.view(H, 1, 1) * (torch.arange(N)[None, :] - torch.arange(N)[:, None])
        return together((q @ k.mT + bias).softmax(-1) @ v)

    return step


def alibi_product() -> Step:
    qkv = nn.Linear(C, 3 * C)

    def step(x: Tensor) -> Any:
        q, k, v = map(heads, qkv(x).chunk(3, -1))
        slopes = torch.pow(0.5, torch.arange(1, H + 1, dtype=torch.float32))
        bias = -(torch.arange(N).view(1, N) - torch.arange(N).view(N, 1)).abs().float()
        return together((q @ k.mT + slopes[:, None, None] * bias).softmax(-1) @ v)

    return step


def linear_attention(feature: Callable[[Tensor], Tensor]) -> Callable[[], Step]:
    def made() -> Step:
        qkv = nn.Linear(C, 3 * C)

        def step(x: Tensor) -> Any:
            q, k, v = map(heads, qkv(x).chunk(3, -1))
            q, k = feature(q), feature(k)
            state = k.transpose(-2, -1) @ v
            return together(q @ state / (q @ k.sum(2).unsqueeze(-1)))

        return step

    return made


def efficient_attention() -> Step:
    qkv = nn.Linear(C, 3 * C)

    def step(x: Tensor) -> Any:
        q, k, v = map(heads, qkv(x).chunk(3, -1))
        return together(q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v))

    return step


def causal_linear_attention() -> Step:
    qkv = nn.Linear(C, 3 * C)

    def step(x: Tensor) -> Any:
        q, k, v = map(heads, qkv(x).chunk(3, -1))
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        state = torch.einsum("bhnd,bhne->bhnde", k, v).cumsum(2)
        norm = torch.einsum("bhnd,bhnd->bhn", q, k.cumsum(2))
        return together(torch.einsum("bhnd,bhnde->bhne", q, state) / norm[..., None])

    return step


def cross_attention_of_library() -> Step:
    attention, memory = nn.MultiheadAttention(C, H, dropout=0.1), nn.Parameter(torch.zeros(10, N, C))
    return lambda x: attention(x, memory, memory, need_weights=False)[0]


ATTENTIONS: dict[str, Callable[[], Step]] = {
    "multi query": multi_query,
    "grouped queries": grouped_queries,
    "window by unfold": window_by_unfold,
    "rotary, halves": rotary_halves,
    "rotary, pairs": rotary_pairs,
    "rotary, complex": rotary_complex,
    "position table": position_table,
    "bucketed positions": bucketed_positions,
    "alibi": alibi,
    "alibi, product": alibi_product,
    "linear attention, elu": linear_attention(lambda x: functional.elu(x) + 1),
    "linear attention, softmax": linear_attention(lambda x: x.softmax(-1)),
    "linear attention, relu": linear_attention(functional.relu),
    "efficient attention": efficient_attention,
    "causal linear attention": causal_linear_attention,
    "library attention": cross_attention_of_library,
}

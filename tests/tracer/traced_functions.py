"""Functions that tests trace, as users write them."""

import math
from typing import Any

import torch
from torch import Tensor

INPUTS = dict.fromkeys("qkv", "B,H,N,D:bf16")
SIZES = {"B": 2, "H": 3, "N": 256, "D": 32}


def three_names(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scaled = scores / math.sqrt(q.shape[-1])
    weights = torch.softmax(scaled, dim=-1)
    return weights @ v


def scaled_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scores /= math.sqrt(q.shape[-1])
    scaled = scores
    weights = torch.softmax(scaled, dim=-1)
    return weights @ v


def without_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    scaled = scores / math.sqrt(q.shape[-1])
    del scores
    weights = torch.softmax(scaled, dim=-1)
    return weights @ v


def branches_on_data(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x * 2
    return x


def asks_for_a_value(x: Tensor) -> Tensor:
    return torch.zeros(x.argmax().item())


def raises(x: Tensor) -> Tensor:
    scale = {}[1]  # type: ignore[var-annotated]
    return x * scale


def wrong_shapes(x: Tensor, y: Tensor) -> Tensor:
    return x @ y


def asks_cuda(x: Tensor) -> Tensor:
    torch.cuda.CUDAGraph()
    return x


def under_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return x @ x


def on_cuda(x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[-1], device="cuda", dtype=x.dtype)
    assert x.is_cuda
    assert x.device.type == "cuda"
    return (x.cuda() * mask).to("cuda")


def looped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = []
    for i in range(0, q.shape[2], 64):
        parts.append(torch.softmax(q[:, :, i : i + 64] @ k.mT, -1) @ v)
    return torch.cat(parts, 2)


def in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.cat([torch.softmax(part @ k.mT, -1) @ v for part in q.chunk(4, dim=2)], 2)


def endless(x: Any) -> Any:
    while True:
        x = x + 1


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, n, d = q.shape
    g = k.shape[1]
    k, v = (x[:, :, None].expand(b, g, h // g, n, d).reshape(b, h, n, d) for x in (k, v))
    return torch.softmax(q @ k.mT, -1) @ v


def times_a_constant(x: Tensor) -> Tensor:
    return x @ WEIGHT.t()


WEIGHT = torch.ones(32, 32)


def library_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)

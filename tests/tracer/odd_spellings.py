"""Attention in odd spellings that recording tensors do not know: torch alone. Shapes as in `spellings`."""

import math
from typing import Any

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional

from spellings import B, D, H, N


def odd_letters(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = einsum("zyxw,zyvw->zyxv", q, k) * D**-0.5
    return einsum("abij,abjk->abik", scores.softmax(dim=-1), v)


def einsum_transposed_result(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = einsum("bhid,bhjd->bhij", q, k).softmax(-1)
    return einsum("bhij,bhjd->bihd", weights, v).flatten(2).view(B, N, H, D).transpose(1, 2)


def batched_add_in_place_of_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.zeros(1, 1, N, dtype=q.dtype)
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=D**-0.5)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(B, H, N, D)


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores transposed, softmax down their columns."""
    scores = k @ q.transpose(-1, -2)
    weights = torch.softmax(scores, dim=-2)
    return weights.transpose(-1, -2) @ v


def upcast_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.mT).to(torch.float32)
    scores = scores - scores.amax(-1, keepdim=True)
    weights = scores.exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return weights.to(v.dtype) @ v


def upcast_operands(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (torch.softmax(q.float() @ k.float().mT, -1) @ v.float()).to(q.dtype)


def split_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """From (B, N, H * D), with one chunked tensor of all three."""
    whole = torch.cat([x.transpose(1, 2).reshape(B, N, H * D) for x in (q, k, v)], dim=-1)
    parts = whole.chunk(3, dim=-1)
    a, b, c = (x.view(B, N, H, D).permute(0, 2, 1, 3) for x in parts)
    out = torch.matmul(torch.matmul(a, b.permute(0, 1, 3, 2)).div(math.sqrt(D)).softmax(-1), c)
    return out.permute(0, 2, 1, 3).contiguous().view(B, N, H, D).permute(0, 2, 1, 3)


def fused_projection(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    x = q.transpose(1, 2).flatten(2)
    weight = torch.ones(3 * H * D, H * D, dtype=q.dtype)
    a, b, c = functional.linear(x, weight).view(B, N, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
    return (a @ b.transpose(-2, -1)).softmax(-1) @ c + k * v


def rolled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = torch.roll(k, -7, 2), torch.roll(v, shifts=(-7, 1), dims=(2, 3))
    return torch.roll((q @ k.mT).softmax(-1) @ v, 7, dims=2)


def lower_triangle_inside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.tril(torch.ones(N, N)).view(1, 1, N, N)
    scores = (q @ k.mT).masked_fill(mask == 0, float("-inf"))
    return scores.softmax(-1) @ v


def added_infinities(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.full((N, N), float("-inf"), dtype=q.dtype).triu_(diagonal=1)
    return functional.softmax(q @ k.mT / math.sqrt(D) + mask, dim=-1) @ v


def lowest_value(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.arange(N)[None, :] > torch.arange(N)[:, None]
    scores = torch.where(mask, torch.finfo(q.dtype).min, q @ k.mT)
    return scores.softmax(-1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    slopes = torch.pow(2.0, -torch.arange(1, H + 1).float())[:, None, None]
    distance = torch.arange(N)[None, :] - torch.arange(N)[:, None]
    scores = q @ k.mT + (slopes * distance).to(q.dtype)
    return scores.softmax(-1) @ v


def relative_positions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    table = torch.zeros(2 * N - 1, H, dtype=q.dtype)
    index = torch.arange(N)[:, None] - torch.arange(N)[None, :] + N - 1
    bias = table[index].permute(2, 0, 1)
    return (q @ k.mT + bias).softmax(-1) @ v


def soft_cap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT * D**-0.5
    scores = 50.0 * torch.tanh(scores / 50.0)
    scores = scores.masked_fill(torch.ones(N, N, dtype=torch.bool).triu(1), -1e9)
    return functional.softmax(scores, dim=-1, dtype=torch.float32).type_as(q) @ v


def sinks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    sink = torch.zeros(H, dtype=q.dtype).view(1, H, 1, 1).expand(B, H, N, 1)
    scores = torch.cat([q @ k.mT, sink], dim=-1)
    scores = scores - scores.max(dim=-1, keepdim=True).values
    return scores.softmax(-1)[..., :-1] @ v


def returned_weights(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    weights = (q @ k.mT).softmax(-1)
    return weights @ v, weights


def dropped_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = functional.dropout((q @ k.mT).softmax(-1), p=0.2, training=True)
    return functional.dropout(weights @ v, p=0.1)


def cosine(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scale = torch.zeros(H, 1, 1, dtype=q.dtype).clamp(max=4.6).exp()
    return (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).mT * scale).softmax(-1) @ v


def talking_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    before, after = torch.ones(H, H, dtype=q.dtype), torch.ones(H, H, dtype=q.dtype)
    scores = einsum("bhij,hg->bgij", q @ k.mT, before)
    weights = einsum("bhij,hg->bgij", scores.softmax(-1), after)
    return weights @ v


def normalised_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = functional.layer_norm(q, (D,)), functional.layer_norm(k, (D,))
    return (q @ k.mT).softmax(-1) @ v


def rotated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    angle = torch.outer(torch.arange(N).float(), 10000.0 ** (-torch.arange(0, D, 2).float() / D))
    cos, sin = (torch.cat((x, x), -1).to(q.dtype) for x in (angle.cos(), angle.sin()))

    def turned(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), -1) * sin

    return (turned(q) @ turned(k).mT).softmax(-1) @ v


def rotated_as_complex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    turns = torch.polar(torch.ones(N, D // 2), torch.ones(N, D // 2))

    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(3).type_as(x)

    return (turned(q) @ turned(k).mT).softmax(-1) @ v


def online_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Blocks of keys, with running maximum and sum."""
    out = torch.zeros_like(q)
    highest = torch.full((B, H, N, 1), float("-inf"), dtype=q.dtype)
    total = torch.zeros(B, H, N, 1, dtype=q.dtype)
    for keys, values in zip(k.split(64, 2), v.split(64, 2), strict=True):
        scores = q @ keys.mT
        new = torch.maximum(highest, scores.amax(-1, keepdim=True))
        powers = torch.exp(scores - new)
        shrink = torch.exp(highest - new)
        total = total * shrink + powers.sum(-1, keepdim=True)
        out = out * shrink + powers @ values
        highest = new
    return out / total


def sliding_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys of each query gathered by unfold."""
    width = 9
    keys, values = (functional.pad(x, (0, 0, width - 1, 0)).unfold(2, width, 1) for x in (k, v))
    weights = einsum("bhnd,bhndw->bhnw", q, keys).softmax(-1)
    return einsum("bhnw,bhndw->bhnd", weights, values)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = functional.elu(q) + 1, functional.elu(k) + 1
    state = einsum("bhnd,bhne->bhde", k, v)
    norm = 1 / (einsum("bhnd,bhd->bhn", q, k.sum(2)) + 1e-6)
    return einsum("bhnd,bhde,bhn->bhne", q, state, norm)


def top_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    best, places = scores.topk(16, dim=-1)
    kept = torch.full_like(scores, float("-inf")).scatter(-1, places, best)
    return kept.softmax(-1) @ v


def entropy_besides(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = q @ k.mT
    logs = functional.log_softmax(scores, dim=-1)
    weights = logs.exp()
    return weights @ v, -(weights * logs).sum(-1).mean()


def in_place_chain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)).mul_(D**-0.5)
    scores.add_(torch.zeros(N, N, dtype=q.dtype)).clamp_(-50, 50)
    return torch.matmul(functional.softmax(scores, -1), v)


def nested_checkpoint(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    def weights(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT).softmax(-1)

    def whole(a: Tensor, b: Tensor, c: Tensor) -> Any:
        return checkpoint(weights, a, b, use_reentrant=False, preserve_rng_state=False) @ c

    return checkpoint(whole, q, k, v, use_reentrant=False, preserve_rng_state=False)


def over_batch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    def one(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (a @ b.mT).softmax(-1) @ c

    return torch.func.vmap(torch.func.vmap(one))(q, k, v)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        probs = (scores * scale).softmax(-1)
        ctx.save_for_backward(probs)
        return probs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (probs,) = ctx.saved_tensors
        inner = grad * probs
        return (inner - probs * inner.sum(-1, keepdim=True)) * ctx.scale, None


def own_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _Scaled.apply(q @ k.mT, D**-0.5) @ v


def library_module(q: Tensor, k: Tensor, v: Tensor) -> Any:
    weight = torch.ones(3 * D, D, dtype=q.dtype)
    a, b, c = (x[:, 0].transpose(0, 1) for x in (q, k, v))
    bias, out = torch.zeros(3 * D, dtype=q.dtype), torch.ones(D, D, dtype=q.dtype)
    return functional.multi_head_attention_forward(a, b, c, D, 4, weight, bias, None, None, False, 0.0, out, None)


class _Pool(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return nn.Softmax(dim=-1)(scores)


def hooked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    pool = _Pool()
    pool.register_forward_hook(lambda module, given, out: out * 1.0)
    return pool(q @ k.mT) @ v


ODD = [f for n, f in list(globals().items()) if callable(f) and f.__module__ == __name__ and n[0].islower()]

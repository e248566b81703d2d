"""Models as people write them, each trained one step: x is (B, N, C); what a model returns is its loss or output."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

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


def norms_before() -> Step:
    return nn.Sequential(Block(), Block(), nn.LayerNorm(C))


def norms_after() -> Step:
    return nn.Sequential(Block(pre=False), Block(pre=False))


def dropout_in_several_places() -> Step:
    return nn.Sequential(nn.Dropout(0.1), Block(drop=0.1), Block(pre=False, drop=0.1))


def layer_norm_block() -> Step:
    norm, linear = nn.LayerNorm(C), nn.Linear(C, C)
    return lambda x: x + linear(norm(x))


def layer_norm_alone() -> Step:
    return nn.LayerNorm(C)


def layer_norm_without_bias() -> Step:
    return nn.LayerNorm(C, bias=False)


def gated(activation: Callable[[Tensor], Tensor]) -> Callable[[], Step]:
    def made() -> Step:
        norm, gate, up, down = (
            nn.RMSNorm(C),
            *(nn.Linear(C, 2 * C, False) for _ in range(2)),
            nn.Linear(2 * C, C, False),
        )
        return lambda x: x + down(activation(gate(norm(x))) * up(x))

    return made


def one_gate_matrix() -> Step:
    both, down = nn.Linear(C, 4 * C), nn.Linear(2 * C, C)

    def step(x: Tensor) -> Any:
        gate, up = both(x).chunk(2, -1)
        return down(functional.glu(both(x)) + functional.gelu(gate, approximate="tanh") * up)

    return step


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


def losses(**options: Any) -> Callable[[], Step]:
    def made() -> Step:
        head, targets = nn.Linear(C, CLASSES), classes()
        return lambda x: functional.cross_entropy(head(x).view(-1, CLASSES), targets.view(-1), **options)

    return made


def transposed_loss() -> Step:
    head, targets = nn.Linear(C, CLASSES), classes()
    return lambda x: functional.cross_entropy(head(x).transpose(1, 2), targets)


def smoothing_by_hand() -> Step:
    head, targets = nn.Linear(C, CLASSES), classes()

    def step(x: Tensor) -> Any:
        logs = head(x).log_softmax(-1)
        picked = -logs.gather(-1, targets[..., None]).squeeze(-1)
        return (0.9 * picked - 0.1 * logs.mean(-1)).mean()

    return step


def z_loss() -> Step:
    head, targets = nn.Linear(C, CLASSES), classes()

    def step(x: Tensor) -> Any:
        logits = head(x)
        total = logits.logsumexp(-1)
        return (total - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)).mean() + 1e-4 * total.square().mean()

    return step


def tied_head() -> Step:
    embed, places, block, tokens = nn.Embedding(CLASSES, C), nn.Embedding(N, C), Block(), classes()

    def step(x: Tensor) -> Any:
        hidden = block(embed(tokens) + places(torch.arange(N)) + x)
        return functional.cross_entropy(functional.linear(hidden, embed.weight).flatten(0, 1), tokens.flatten())

    return step


def checkpointed(reentrant: bool) -> Callable[[], Step]:
    def made() -> Step:
        blocks = [Block(drop=0.1) for _ in range(3)]

        def step(x: Tensor) -> Any:
            for block in blocks:
                x = checkpoint(block, x, use_reentrant=reentrant, preserve_rng_state=False)
            return x

        return step

    return made


def checkpointed_sequence() -> Step:
    blocks = nn.Sequential(*(Block() for _ in range(4)))
    return lambda x: checkpoint_sequential(blocks, 2, x, use_reentrant=False, preserve_rng_state=False)


def functional_gradient() -> Step:
    norm, linear = nn.LayerNorm(C), nn.Linear(C, C, bias=False)
    call = torch.func.functional_call
    weights = dict(linear.named_parameters())
    return lambda x: torch.func.vmap(lambda y: call(linear, weights, (torch.tanh(y),)))(norm(x))


def gradient_penalty() -> Step:
    linear = nn.Linear(C, C)

    def step(x: Tensor) -> Any:
        out = linear(x).tanh().sum()
        (inner,) = torch.autograd.grad(out, x, create_graph=True)
        return out + inner.pow(2).sum()

    return step


def lora() -> Step:
    linear = nn.Linear(C, C).requires_grad_(False)
    down, up = nn.Parameter(torch.zeros(4, C)), nn.Parameter(torch.zeros(C, 4))
    return lambda x: linear(x) + functional.dropout(x, 0.1) @ down.T @ up.T * 2.0


def experts() -> Step:
    router, parts = nn.Linear(C, 4), nn.ModuleList(nn.Linear(C, C) for _ in range(4))

    def step(x: Tensor) -> Any:
        weights, chosen = router(x).topk(2, dim=-1)
        weights = weights.softmax(-1)
        gates = torch.zeros(B, N, 4).scatter(-1, chosen, weights)
        return (torch.stack([part(x) for part in parts], dim=-1) * gates.unsqueeze(-2)).sum(-1)

    return step


def experts_one_hot() -> Step:
    router, weight = nn.Linear(C, 4, bias=False), nn.Parameter(torch.zeros(4, C, C))

    def step(x: Tensor) -> Any:
        probabilities = router(x).softmax(-1)
        best, chosen = probabilities.topk(1, -1)
        mask = functional.one_hot(chosen.squeeze(-1), 4).float()
        load = (mask.mean((0, 1)) * probabilities.mean((0, 1))).sum()
        return torch.einsum("bnc,ecd,bne->bnd", x, weight, mask * best) + load

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


def casts() -> Step:
    norm, first, second = nn.LayerNorm(C), *(nn.Linear(C, C) for _ in range(2))

    def half(linear: nn.Linear, x: Tensor) -> Tensor:
        return functional.linear(x, linear.weight.to(x.dtype), linear.bias.to(x.dtype))  # type: ignore[union-attr]

    def step(x: Tensor) -> Any:
        y = half(first, norm(x).to(torch.bfloat16))
        y = half(second, functional.gelu(y.float()).bfloat16())
        return (x + y.float()).square().mean()

    return step


def half_precision() -> Step:
    norm, linear = nn.LayerNorm(C, dtype=torch.bfloat16), nn.Linear(C, C, dtype=torch.bfloat16)
    return lambda x: (x + linear(norm(x.to(torch.bfloat16)))).float()


def library_layer() -> Step:
    return nn.TransformerEncoderLayer(C, H, 2 * C, dropout=0.1, batch_first=True)


def cross_attention_of_library() -> Step:
    attention, memory = nn.MultiheadAttention(C, H, dropout=0.1), nn.Parameter(torch.zeros(10, N, C))
    return lambda x: attention(x, memory, memory, need_weights=False)[0]


def layer_scale_and_drop_path() -> Step:
    block, scale = Block(), nn.Parameter(torch.full((C,), 1e-4))

    def step(x: Tensor) -> Any:
        kept = x.new_empty(B, 1, 1).bernoulli_(0.9).div_(0.9)
        return x + block(x) * scale * kept

    return step


MODELS: dict[str, Callable[[], Step]] = {
    "norms before": norms_before,
    "norms after": norms_after,
    "dropout in several places": dropout_in_several_places,
    "layer norm": layer_norm_alone,
    "layer norm without bias": layer_norm_without_bias,
    "layer norm block": layer_norm_block,
    "swiglu": gated(functional.silu),
    "geglu": gated(functional.gelu),
    "reglu": gated(functional.relu),
    "bilinear": gated(lambda x: x),
    "squared relu": gated(lambda x: functional.relu(x).square()),
    "one gate matrix": one_gate_matrix,
    "multi query": multi_query,
    "grouped queries": grouped_queries,
    "window by unfold": window_by_unfold,
    "rotary, halves": rotary_halves,
    "rotary, pairs": rotary_pairs,
    "rotary, complex": rotary_complex,
    "cross entropy": losses(),
    "cross entropy, sum": losses(reduction="sum"),
    "cross entropy, smoothed": losses(label_smoothing=0.1),
    "cross entropy, some ignored": losses(ignore_index=0),
    "cross entropy, unreduced": losses(reduction="none"),
    "cross entropy, transposed": transposed_loss,
    "smoothing by hand": smoothing_by_hand,
    "z loss": z_loss,
    "tied head": tied_head,
    "checkpoint, reentrant": checkpointed(True),
    "checkpoint": checkpointed(False),
    "checkpointed sequence": checkpointed_sequence,
    "torch.func": functional_gradient,
    "gradient penalty": gradient_penalty,
    "lora": lora,
    "experts": experts,
    "experts, one hot": experts_one_hot,
    "position table": position_table,
    "bucketed positions": bucketed_positions,
    "alibi": alibi,
    "alibi, product": alibi_product,
    "linear attention, elu": linear_attention(lambda x: functional.elu(x) + 1),
    "linear attention, softmax": linear_attention(lambda x: x.softmax(-1)),
    "linear attention, relu": linear_attention(functional.relu),
    "efficient attention": efficient_attention,
    "causal linear attention": causal_linear_attention,
    "casts": casts,
    "half precision": half_precision,
    "library layer": library_layer,
    "library attention": cross_attention_of_library,
    "layer scale, drop path": layer_scale_and_drop_path,
}

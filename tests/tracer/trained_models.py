"""Models as people write them, each trained one step: x is (B, N, C); what a model returns is its loss or output."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from block_of_models import CLASSES, B, Block, C, H, N, Step, classes
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from trained_attentions import ATTENTIONS


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


def deep_copies() -> Step:
    block = Block()
    first, second = copy.deepcopy(block), copy.deepcopy(block)
    return lambda x: second(first(block(x)))


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
    "cross entropy": losses(),
    "cross entropy, sum": losses(reduction="sum"),
    "cross entropy, smoothed": losses(label_smoothing=0.1),
    "cross entropy, some ignored": losses(ignore_index=0),
    "cross entropy, unreduced": losses(reduction="none"),
    "cross entropy, transposed": transposed_loss,
    "smoothing by hand": smoothing_by_hand,
    "z loss": z_loss,
    "tied head": tied_head,
    "deep copies": deep_copies,
    "checkpoint, reentrant": checkpointed(True),
    "checkpoint": checkpointed(False),
    "checkpointed sequence": checkpointed_sequence,
    "torch.func": functional_gradient,
    "gradient penalty": gradient_penalty,
    "lora": lora,
    "experts": experts,
    "experts, one hot": experts_one_hot,
    "casts": casts,
    "half precision": half_precision,
    "library layer": library_layer,
    "layer scale, drop path": layer_scale_and_drop_path,
    **ATTENTIONS,
}

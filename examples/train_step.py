"""A training script's step, as `memmodel trace examples/train_step.py:step --step` takes it.

The model is made on the meta device: its parameters have sizes and no data, however large it is.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

import memmodel
from memmodel.events.groups import by_kind

WIDTH, HEADS, LAYERS, VOCABULARY = 768, 12, 4, 50304


class Block(nn.Module):
    """Causal attention by PyTorch's fused kernel and an MLP, each after a norm and around a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, WIDTH) to the same."""
        heads = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, dim=-1))
        y = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


with torch.device("meta"):
    parts = OrderedDict[str, nn.Module](
        embed=nn.Embedding(VOCABULARY, WIDTH),
        blocks=nn.Sequential(*(Block() for _ in range(LAYERS))),
        norm=nn.LayerNorm(WIDTH),
        head=nn.Linear(WIDTH, VOCABULARY, bias=False),
    )
    model = nn.Sequential(parts)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)


def step(tokens: Tensor) -> None:
    """One step under autocast, with gradients clipped."""
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    """Print what fills the peak of a step on 8 x 1024 tokens."""
    found = memmodel.trace(step, {"tokens": "B,N:int64"}, step="own", at={"B": 8, "N": 1024}, formulas=False)
    for kind, nbytes in by_kind(found.memory.groups).items():
        print(f"{kind:<12} {nbytes / 2**20:7.1f} MiB")


if __name__ == "__main__":
    main()

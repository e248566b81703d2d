"""Train a small transformer on many GPUs: FSDP2 around its blocks, tensor parallelism inside them.

memmodel trace examples/many_gpus.py:step --world 16 --step --gpu H100
torchrun --nproc-per-node 8 examples/many_gpus.py
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

DIM, HEADS, BLOCKS, VOCABULARY, LENGTH, BATCH, TP = 2048, 16, 8, 32000, 2048, 2, 2


class Block(nn.Module):
    """Attention, then a gated MLP, both around a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(DIM), nn.RMSNorm(DIM)
        self.q, self.k, self.v, self.o = (nn.Linear(DIM, DIM, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(DIM, 4 * DIM, bias=False) for _ in range(2))
        self.down = nn.Linear(4 * DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape: batch, length, dim."""
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (-1, DIM // HEADS)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    """Tokens to scores of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(DIM, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores: batch, length, vocabulary."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
mesh = init_device_mesh("cuda", (dist.get_world_size() // TP, TP), mesh_dim_names=("dp", "tp"))
with torch.device("cuda"):
    model = Model()
columns, rows = ("q", "k", "v", "gate", "up"), ("o", "down")
plan = {name: ColwiseParallel() for name in columns} | {name: RowwiseParallel() for name in rows}
for block in model.blocks:
    parallelize_module(block, mesh["tp"], plan)
    fully_shard(block, mesh=mesh["dp"], mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
fully_shard(model, mesh=mesh["dp"], mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
optimizer = torch.optim.AdamW(model.parameters())


def step() -> None:
    """One step on random tokens."""
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1), device="cuda")
    scores = model(tokens[:, :-1])
    cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()


if __name__ == "__main__":
    for _ in range(3):
        step()
    print(f"rank {dist.get_rank()}: {torch.cuda.max_memory_allocated():,} B")
    dist.destroy_process_group()

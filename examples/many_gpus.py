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
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

import memmodel

DIM, HEADS, BLOCKS, VOCABULARY, LENGTH, BATCH = 4096, 32, 2, 32000, 4096, 2


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


if "RANK" in os.environ:  # by torchrun, or within a trace
    dist.init_process_group("nccl")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    mesh = init_device_mesh("cuda", (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    with torch.device("cuda"):
        blocks = [Block() for _ in range(BLOCKS)]
        model = nn.Sequential(nn.Embedding(VOCABULARY, DIM), *blocks, nn.Linear(DIM, VOCABULARY, bias=False))
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters())


def step() -> None:
    """One step on random tokens."""
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1), device="cuda")
    scores = model(tokens[:, :-1])
    cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    """Under torchrun, train; else say what each of 64 ranks would need."""
    if "RANK" in os.environ:
        for _ in range(3):
            step()
        return
    found = memmodel.trace(f"{__file__}:step", step="own", world=64, gpu="H100", torch_version="2.13")
    for row in found.ranks:
        print(f"ranks {row.ranks}: allocated {row.allocated_peak_bytes:,} B, reserved {row.reserved_peak_bytes:,} B")
    for each in found.communication:
        print(f"{each.calls} x {each.kind} of {each.ranks} ranks on {each.nodes} machines: {each.nbytes:,} B")


if __name__ == "__main__":
    main()

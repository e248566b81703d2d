"""One rank of `test_ring.py`: ring attention and its gradients beside attention of the whole sequence in float64."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from memmodel_kernels.ring import ring_attention, shard

BATCH, HEADS, PIECE, HEAD_DIM = 2, 3, 20, 16


def attention(tensors: list[Tensor], dtype: torch.dtype, causal: bool) -> list[Tensor]:
    """Output and gradients of q, k, v in one process."""
    q, k, v, upstream = (x.to(dtype) for x in tensors)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = scaled_dot_product_attention(*leaves, is_causal=causal)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def main() -> None:
    torch.set_num_threads(1)
    rank, world = dist.get_rank(), dist.get_world_size()
    for causal in (True, False):
        torch.manual_seed(0)
        whole = [torch.randn(BATCH, HEADS, 2 * world * PIECE, HEAD_DIM) for _ in range(4)]
        mine = [shard(x, rank, world) for x in whole]
        leaves = [x.clone().requires_grad_() for x in mine[:3]]
        out = ring_attention(*leaves, causal=causal)
        found = [out.detach(), *torch.autograd.grad(out, leaves, mine[3])]
        exact, plain = (attention(whole, dtype, causal) for dtype in (torch.float64, torch.float32))
        for name, ours, right, usual in zip(("out", "dq", "dk", "dv"), found, exact, plain, strict=True):
            right, usual = shard(right, rank, world), shard(usual, rank, world)
            error, allowed = (float((x.double() - right).norm()) for x in (ours, usual))
            assert error <= 2 * allowed, (rank, causal, name, error, allowed)
    dist.barrier()


if __name__ == "__main__":
    main()

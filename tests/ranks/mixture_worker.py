"""A rank of `test_mixture.py`: a shared mixture of Megatron-LM's beside one process with all experts."""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from memmodel_kernels.megatron.mixture import ALONE, Experts, mixture
from memmodel_kernels.megatron.modules import Sharing, Weight
from memmodel_kernels.parallel.group import Group
from pairs import all_pairs

TOKENS, HIDDEN, WIDTH, EXPERTS, BEST = 12, 16, 8, 4, 2


@cache
def group(*ranks: int) -> Group | None:
    """The process group of these ranks, which all ranks make; None of a rank alone."""
    number = dist.get_rank()
    blocks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(blocks, ranks)
    handles = {block: dist.new_group(block) for block in sorted(set(blocks))}
    return Group(ranks.index(number), len(ranks), handles[ranks]) if len(ranks) > 1 else None


def weight(value: Tensor) -> Weight:
    return Weight(value.clone().requires_grad_(), torch.zeros_like(value), fused=False)


def gradients(x: Tensor, weights: dict[str, Any], experts: Experts, upstream: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The result, and the gradients of x and of the weights."""
    x = x.clone().requires_grad_()
    out = mixture(x, weights, BEST, experts, Sharing())
    out.backward(upstream)
    found = (
        torch.stack([each.value.grad for each in one]) if isinstance(one, list) else one.value.grad
        for one in weights.values()
    )
    return out.detach(), [x.grad, *found]


def part(whole: Tensor, name: str, ranks: Group | None, tensor: Group | None, gated: bool) -> Tensor:
    """A rank's experts, and of each its part of the width."""
    mine = whole.chunk(ranks.size)[ranks.rank] if ranks else whole
    if tensor is None:
        return mine
    dim, halves = (1, 2 if gated else 1) if name == "experts.gate_up" else (2, 1)
    return torch.cat([half.chunk(tensor.size, dim)[tensor.rank] for half in mine.chunk(halves, dim)], dim)


def check(shares: tuple[int, int], dispatcher: str, sequential: bool, gated: bool) -> None:
    number, (ep, etp) = dist.get_rank(), shares
    block = range(number // (ep * etp) * ep * etp, (number // (ep * etp) + 1) * ep * etp)
    place = number - block[0]
    ranks, tensor, both = (group(*of) for of in (block[place % etp :: etp], block[place // etp * etp :][:etp], block))
    torch.manual_seed(0)
    whole = {
        "router.weight": torch.randn(EXPERTS, HIDDEN),
        "experts.gate_up": torch.randn(EXPERTS, (2 if gated else 1) * WIDTH, HIDDEN),
        "experts.down": torch.randn(EXPERTS, HIDDEN, WIDTH),
    }
    torch.manual_seed(1 + number)
    x, upstream = torch.randn(2, TOKENS, HIDDEN)
    right, expected = gradients(x, {name: weight(value) for name, value in whole.items()}, ALONE, upstream)
    mine = {
        name: value if name == "router.weight" else part(value, name, ranks, tensor, gated)
        for name, value in whole.items()
    }
    weights: dict[str, Any] = {
        name: [weight(one) for one in value] if sequential and name != "router.weight" else weight(value)
        for name, value in mine.items()
    }
    buffer = torch.empty(len(block) * TOKENS, HIDDEN) if dispatcher == "allgather" and both else None
    experts = Experts(ranks, tensor, both, dispatcher, buffer, sequential)
    out, found = gradients(x, weights, experts, upstream)
    torch.testing.assert_close(out, right, rtol=1e-4, atol=1e-4)
    for name, got, wanted in zip(("x", *whole), found, expected, strict=True):
        if name.startswith("experts"):  # of the tokens of all ranks of the block
            if both:
                dist.all_reduce(wanted, group=both.handle)
            wanted = part(wanted, name, ranks, tensor, gated)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def main() -> None:
    torch.set_num_threads(1)
    shares, dispatchers, both = [(4, 1), (2, 2), (1, 2)], ["alltoall", "allgather"], [False, True]
    options = {"shares": shares, "dispatcher": dispatchers, "sequential": both, "gated": both}
    for chosen in all_pairs(options, lambda _: True):
        check(**chosen)
    dist.barrier()


if __name__ == "__main__":
    main()

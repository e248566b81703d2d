"""A rank of `test_shared_decoder.py`: gradients of its share beside the whole model's, trained in one process."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from memmodel.models.layout import ONE_GPU, Rank
from memmodel.models.run import training
from memmodel_validate.ranks import decoders

Tensors = dict[str, Tensor]


def filled(values: Callable[[str, Tensor], Tensor], found: Tensors) -> Callable[[Tensor, str, str], None]:
    """A label that gives every named tensor its values, and remembers it."""

    def label(x: Tensor, name: str, _: str) -> None:
        if name:
            with torch.no_grad():
                x.copy_(values(name, x))
            found[name] = x

    return label


def drawn(name: str, x: Tensor) -> Tensor:
    if name == "frequencies":
        return torch.arange(1, 1 + len(x)) / 10
    if not x.dtype.is_floating_point:
        return torch.randint(0, decoders.LLAMA.vocab, x.shape)
    return torch.randn(x.shape) / 5


def gradients(step: Any, found: Tensors) -> list[Tensors]:
    """The gradients of two steps."""
    seen: list[Tensors] = []

    def mark(phase: str) -> None:
        if phase == "optimizer":
            seen.append({name: x.grad.clone() for name, x in found.items() if x.grad is not None})

    for _ in range(2):
        step(mark)
    return seen


def piece(whole: Tensor, like: Tensor, rank: Rank) -> Tensor:
    """Of a tensor of the whole model, a rank's share: it is cut along the dimension in which they differ."""
    dims = [dim for dim, size in enumerate(like.shape) if size != whole.shape[dim]]
    return whole.chunk(whole.shape[dims[0]] // like.shape[dims[0]], dims[0])[rank.tensor] if dims else whole


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for program in sys.argv[1:]:
        check(program, dist.get_rank(), dist.get_world_size())
    dist.barrier()
    dist.destroy_process_group()


def check(program: str, number: int, world: int) -> None:
    torch.manual_seed(0)
    case = decoders.whole_case(program, world)
    rank = case.layout.rank(number)
    of_whole: Tensors = {}
    alone = training(torch, replace(case, layout=ONE_GPU), filled(drawn, of_whole))
    start = {name: x.detach().clone() for name, x in of_whole.items()}
    right = gradients(alone, of_whole)
    of_share: Tensors = {}
    handles = {"tensor": init_device_mesh("cpu", (world,)).get_group()}
    label = filled(lambda name, x: piece(start[name], x, rank), of_share)
    ours = gradients(decoders.trained(torch, program, world, number, label, handles), of_share)
    for step, (found, expected) in enumerate(zip(ours, right, strict=True)):
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            wanted = piece(expected[name], gradient, rank)
            where = f"{program}, step {step}, {name}"
            torch.testing.assert_close(gradient, wanted, atol=2e-6, rtol=2e-4, msg=lambda m: f"{where}: {m}")  # noqa: B023


if __name__ == "__main__":
    main()

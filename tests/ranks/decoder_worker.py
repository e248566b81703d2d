"""A rank of `test_shared_decoder.py`: gradients of its share beside the whole model's, trained in one process."""

import sys
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from memmodel.models.layout import ONE_GPU, SHARING, Layout, Rank
from memmodel.models.run import training
from memmodel.models.setting import ModelCase
from memmodel_kernels.ring import shard
from memmodel_validate.ranks import decoders
from memmodel_validate.ranks.programs import groups
from rank_tensors import Tensors, drawn, filled

draw = partial(drawn, vocabulary=decoders.LLAMA.vocab)


def gradients(step: Any, found: Tensors) -> list[Tensors]:
    """The gradients of two steps, as the optimizer has used them."""
    seen: list[Tensors] = []

    def mark(phase: str) -> None:
        if phase == "after":
            seen.append({name: x.grad.clone() for name, x in found.items() if x.grad is not None})

    for _ in range(2):
        step(mark)
    return seen


@cache
def alone(case: ModelCase) -> tuple[Tensors, Tensors, list[Tensors]]:
    """Of a model trained in one process: its tensors before and after, and its gradients. Many programs share one."""
    torch.manual_seed(0)
    found: Tensors = {}
    step = training(torch, case, filled(draw, found))
    start = {name: x.detach().clone() for name, x in found.items()}
    right = gradients(step, found)
    return start, found, right


def piece(name: str, whole: Tensor, like: Tensor, layout: Layout, rank: Rank) -> Tensor:
    """Of a tensor of the whole model, a rank's share: its experts, a part of one dimension, and of that some rows."""
    if not whole.dtype.is_floating_point:
        return shard(whole, rank.context, layout.cp, dim=1) if layout.cp > 1 else whole
    number, rows = layout.number(rank), layout.peers(rank, *SHARING)
    if layout.ep > 1 and "experts." in name:
        whole = whole.chunk(layout.ep)[layout.experts(rank).index(number)]
        rows = layout.same_experts(rank)
    if whole.shape == like.shape:
        return whole
    shards = len(rows) if layout.fully_sharded else 1
    sizes = (shards * like.shape[0], *like.shape[1:])
    for dim in (dim for dim, size in enumerate(sizes) if 0 < size < whole.shape[dim]):
        parts = whole.chunk(2 if "gate_up" in name else 1, dim)
        whole = torch.cat([part.chunk(layout.tp, dim)[rank.tensor] for part in parts], dim)
    parts = whole.chunk(shards)
    place = rows.index(number) % shards
    return parts[place] if place < len(parts) else whole[:0]


def in_whole(name: str, layers: list[int]) -> str:
    """The name in the whole model of a parameter of a rank's n-th layer."""
    start, _, rest = name.partition("layers.")
    number, _, rest = rest.partition(".")
    return name if start or not rest else f"layers.{layers[int(number)]}.{rest}"


def main() -> None:
    torch.set_num_threads(1)
    for program in sys.argv[1:]:
        check(program, dist.get_rank(), dist.get_world_size())
    dist.barrier()


def check(program: str, number: int, world: int) -> None:
    case = decoders.whole_case(program, world)
    layout, rank = case.layout, case.layout.rank(number)
    layers = [layer for chunk in layout.layers_of(rank, case.arch.layers) for layer in chunk]  # of this rank
    keeps = layout.zero not in (1, 2) or layout.shards == 1  # gradients of its own, of every parameter
    # Every loss is the same number.
    setting = replace(case, layout=ONE_GPU, microbatches=1, clip=case.clip and not keeps, loss="full")
    start, of_whole, right = alone(setting)
    of_share: Tensors = {}
    label = filled(lambda name, x: piece(name, start[in_whole(name, layers)], x, layout, rank), of_share)
    ours = gradients(decoders.trained(torch, program, world, number, label, groups(layout)), of_share)
    if not keeps:
        for name, x in of_share.items():
            wanted = piece(name, of_whole[in_whole(name, layers)], x, layout, rank)
            torch.testing.assert_close(x, wanted, atol=1e-5, rtol=1e-4, msg=lambda why, name=name: f"{name}: {why}")
        return
    steps = list(enumerate(zip(ours, right, strict=True)))
    for step, (found, expected) in steps[:1] if case.autocast else steps:  # its second step is of other roundings
        assert layout.pp > 1 or found.keys() == expected.keys()
        norm = case.microbatches * torch.stack([x.norm() for x in expected.values()]).norm()
        times = case.microbatches * min(1, 1 / float(norm)) if case.clip else case.microbatches
        for name, gradient in found.items():
            wanted = times * piece(name, expected[in_whole(name, layers)], gradient, layout, rank)
            error, size = float((gradient - wanted).norm()), float(wanted.norm())
            # AdamW makes steps of one size of gradients that differ by rounding.
            most = 2**-5 if case.autocast else 1e-3 if step else 1e-5
            assert error <= most * size + 1e-6, f"{program}, step {step}, {name}: {error} of {size}"


if __name__ == "__main__":
    main()

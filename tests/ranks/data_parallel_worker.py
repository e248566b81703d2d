"""One rank of `test_data_parallel.py`: parameters after two steps beside one process's that had all ranks' batches."""

from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from memmodel.base.dtypes import float32
from memmodel.models.architecture import Architecture
from memmodel.models.layout import ONE_GPU, Layout
from memmodel.models.run import training
from memmodel.models.setting import ModelCase
from memmodel_kernels.parallel import partitioned_gradients
from memmodel_validate.ranks.programs import groups
from rank_tensors import Tensors, drawn, filled

WORLD = 2
LLAMA = Architecture("small", 97, 2, 48, 80, heads=6, kv_heads=2, head_dim=8, value_dim=8, tied=True)
SMALL = ModelCase(LLAMA, batch=2, seq=16, dtype=float32)
CASES = [
    replace(SMALL, layout=Layout(dp_shard=WORLD), clip=True),
    replace(SMALL, layout=Layout(dp_shard=WORLD, reshard=False), checkpoint="block"),
    replace(SMALL, layout=Layout(dp=WORLD)),
    replace(SMALL, layout=Layout(dp=WORLD), masters=True),
    replace(SMALL, layout=Layout(dp_shard=WORLD, zero=1), masters=True, microbatches=2),
    replace(SMALL, layout=Layout(dp_shard=WORLD, zero=1), clip=True),
    replace(SMALL, layout=Layout(dp_shard=WORLD, zero=2), microbatches=2),
]
draw = partial(drawn, vocabulary=LLAMA.vocab)


def rows(whole: Tensor, like: Tensor, rank: int) -> Tensor:
    """A rank's rows of a tensor of the whole model."""
    return whole if whole.shape == like.shape else whole.chunk(WORLD)[rank]


def check(case: ModelCase, rank: int) -> None:
    torch.manual_seed(0)
    of_whole: Tensors = {}
    whole = replace(case, layout=ONE_GPU, batch=WORLD * case.batch)
    alone = training(torch, whole, filled(draw, of_whole))
    start = {name: x.detach().clone() for name, x in of_whole.items()}

    def mine(name: str, x: Tensor) -> Tensor:
        batch = name in ("tokens", "targets")
        return start[name].chunk(WORLD)[rank] if batch else rows(start[name], x, rank)

    of_share: Tensors = {}
    place = case.layout.rank(rank)
    shared = training(
        torch,
        replace(case, rank=place),
        filled(mine, of_share),
        groups(case.layout),
    )
    for _ in range(2):
        alone(lambda _: None)
        shared(lambda _: None)
    assert of_share.keys() == of_whole.keys()
    for name, x in of_share.items():
        if name not in ("tokens", "targets"):
            torch.testing.assert_close(x, rows(of_whole[name], x, rank), atol=1e-5, rtol=1e-4)


def main() -> None:
    torch.set_num_threads(1)
    partitioned_gradients.PartitionedGradients.__init__.__defaults__ = (4000,)  # elements: the embedding has more
    for case in CASES:
        check(case, dist.get_rank())
    dist.barrier()


if __name__ == "__main__":
    main()

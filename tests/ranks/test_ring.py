"""Ring attention on gloo processes is attention of the whole sequence; what it keeps and sends is as by hand."""

from pathlib import Path

import pytest
import torch

import memmodel
from memmodel_kernels.parallel.group import Group
from memmodel_kernels.ring import joined, ring_attention, shard
from memmodel_kernels.ring.attention import part_of
from rank_processes import run_ranks


def test_shards_join_to_the_sequence() -> None:
    x = torch.arange(24.0).reshape(1, 1, 24, 1)
    shards = [shard(x, rank, 3) for rank in range(3)]
    assert shards[0].flatten().tolist() == [0, 1, 2, 3, 20, 21, 22, 23]
    assert torch.equal(joined(shards), x)
    with pytest.raises(ValueError, match="a sequence of 24 on 5 ranks: expected a multiple of 10"):
        shard(x, 0, 5)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_every_rank_has_the_same_work(world: int) -> None:
    """Pairs of query and key pieces: half of a rank's own square, then two of four in every step."""
    pairs = {"all": 4, "early": 2, "late": 2}
    for rank in range(world):
        parts = [part_of(Group(rank, world, None), step, causal=True) for step in range(world)]
        assert [pairs[part] for part in parts] == [4] + [2] * (world - 1)


@pytest.mark.slow
def test_ring_attention_is_attention(tmp_path: Path) -> None:
    """Three processes: output and gradients, to twice the error of PyTorch's own in the same dtype."""
    run_ranks(3, Path(__file__).with_name("ring_worker.py"), tmp_path)


@pytest.mark.parametrize("world", [2, 4])
def test_what_a_rank_sends_and_keeps(world: int) -> None:
    """Forward sends keys and values on W - 1 times; backward again, and their float32 gradients W times."""

    def step(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ring_attention(q, k, v)

    inputs = [f"{name}=B,H,N,D:bf16" for name in "qkv"]
    found = memmodel.trace(step, inputs, step="train", at={"B": 1, "H": 8, "N": 256, "D": 64}, gpu="H100", world=world)
    tensor = 8 * 256 * 64
    sent = {each.kind: each.nbytes for each in found.communication}
    assert sent["send"] == sent["receive"] == 2 * tensor * (2 * 2 * (world - 1) + 4 * world)
    # Beyond q, k, v: the output, and a float32 sum of exponentials for each row of each head.
    assert found.memory.saved_bytes == 2 * tensor + 4 * 8 * 256

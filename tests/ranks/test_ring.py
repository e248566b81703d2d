"""Ring attention on gloo processes is attention of the whole sequence; what it keeps and sends is as by hand."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import memmodel
from memmodel_kernels.ring import joined, ring_attention, shard
from memmodel_kernels.ring.attention import Ring, part_of


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
        parts = [part_of(Ring(None, rank, world), step, causal=True) for step in range(world)]
        assert [pairs[part] for part in parts] == [4] + [2] * (world - 1)


@pytest.mark.slow
def test_ring_attention_is_attention() -> None:
    """Three processes: output and gradients, to twice the error of PyTorch's own in the same dtype."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join(p for p in sys.path if p)
    common = {**os.environ, "PYTHONPATH": paths, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "3"}
    worker = Path(__file__).with_name("ring_worker.py")
    ranks = [
        subprocess.Popen([sys.executable, str(worker)], env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(3)
    ]
    try:
        said = [rank.communicate(timeout=120)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0, 0], said


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

"""A layout of ranks: their numbers, and one sentence for each size that does not divide."""

import pytest

from memmodel.base.errors import UsageError
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.layout import Layout, Rank

LLAMA = listed("llama-3.1-70b").architecture  # 64 heads, 8 KV heads, 80 layers


def test_ranks_are_numbered_from_the_nearest_neighbours_on() -> None:
    # torch.distributed.device_mesh of (pp 2, dp 1, dp_shard 3, cp 2, tp 4), in row-major order
    layout = Layout(tp=4, cp=2, dp_shard=3, pp=2)
    assert layout.world == 48
    rank = Rank(tensor=1, context=1, shard=2, stage=1)
    assert layout.number(rank) == ((1 * 3 + 2) * 2 + 1) * 4 + 1
    assert layout.peers(rank, "tensor") == (44, 45, 46, 47)
    assert layout.peers(rank, "shard", "context") == (25, 29, 33, 37, 41, 45)


def test_virtual_stages_go_around_the_ranks() -> None:
    layout = Layout(pp=2, virtual_stages=2, schedule="interleaved")
    assert layout.layers_of(Rank(stage=1), 8) == (range(2, 4), range(6, 8))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"gpus": 64, "tp": 8, "dp_shard": 4}, "64 GPUs: tp 8 x dp-shard 4 makes 32, give dp-shard 8"),
        ({"gpus": 12, "tp": 8}, "12 GPUs: tp 8 makes 8, give a multiple of 8"),
        ({"tp": 16}, "tp 16: llama-3.1-70b has only 8 KV heads, give at most that"),
        ({"tp": 3}, "tp 3 does not divide llama-3.1-70b's heads, 64: give a divisor of it"),
        ({"tp": 8, "sequence_parallel": True, "seq": 100}, "seq 100 shared by tp 8 x cp 1: expected a multiple of 8"),
        ({"cp": 2, "seq": 102}, "seq 102 on cp 2: expected a multiple of 4, two pieces a rank"),
        ({"cp": 2, "attention": "flash-attn"}, "attention flash-attn with cp 2 is not modelled yet"),
        ({"cp": 2, "dtype": "fp32"}, "dtype fp32, which flash attention lacks, with cp 2 is not modelled yet"),
        ({"pp": 3, "microbatches": 8}, "pp 3: 80 layers in 3 stages do not divide, give a divisor of them"),
        ({"pp": 4, "microbatches": 2}, "pp 4 with 2 microbatches: fewer than stages, give at least 4"),
        ({"ep": 2}, "ep 2: llama-3.1-70b has no experts, leave it out"),
        ({"zero": 4}, "zero 4: expected 0, 1, 2 or 3"),
        ({"sequence_parallel": True}, "sequence-parallel without tp: it shares the tokens among the ranks of tp"),
    ],
)  # fmt: skip
def test_what_does_not_divide_is_one_sentence(given: dict, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        model_case(LLAMA, **given)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ep": 3, "dp_shard": 3}, "ep 3 does not divide mixtral-8x7b's 8 experts: give a divisor"),
        ({"ep": 8, "dp_shard": 4}, "ep 8: experts are shared among dp-shard x cp = 4 ranks, give a divisor"),
        (
            {"ep": 2, "dp": 2, "clip": True},
            "clipping and replicas with ep 2 is not modelled yet: leave one of them out",
        ),
    ],
)
def test_experts_that_do_not_divide_are_one_sentence(given: dict, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        model_case(listed("mixtral-8x7b").architecture, **given)
    assert str(error.value) == sentence


def test_experts_are_shared_by_neighbours() -> None:
    """Of eight ranks that share the state, two pairs of four: the same experts are four ranks apart."""
    layout = Layout(tp=2, dp_shard=8, ep=4)
    rank = Rank(tensor=1, shard=5)
    assert layout.experts(rank) == (9, 11, 13, 15)
    assert layout.same_experts(rank) == (3, 11)


def test_without_known_links_there_is_memory_and_no_time():
    from memmodel import model
    from memmodel.base.errors import UsageError

    report = model("qwen3-0.6b", "MI300X", dp=2, seq=512)
    assert report.prediction.memory.fits
    assert report.prediction.time is None
    assert "give --link" in report.prediction.notes[-1]
    assert model("qwen3-0.6b", "MI300X", dp=2, seq=512, link="pcie-5").prediction.step is not None
    with pytest.raises(UsageError, match="unknown link"):
        model("qwen3-0.6b", "MI300X", dp=2, seq=512, link="cable")

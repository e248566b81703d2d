"""Layers that are repeated make the program of layers that are all run."""

from dataclasses import replace
from typing import Any

import pytest
from training import llama

from memmodel.events.liveness import summary
from memmodel.events.program import Alloc, Free, Launch, Mark, Program
from memmodel.expansion import Repetition, repetition
from memmodel.models.architecture import Architecture, Latent, Mixture
from memmodel.models.layout import Layout, Rank
from memmodel.models.record import moments, record, record_in_full, record_memory
from memmodel.models.setting import Adapter, ModelCase
from memmodel.models.share import share
from memmodel_kernels.optimizers import OPTIMIZERS


def canonical(program: Program) -> tuple[Any, ...]:
    """A program with its storages numbered in order of birth."""
    numbers = {birth.key: number for number, birth in enumerate(program.births())}
    events = [e if isinstance(e, Launch | Mark) else e._replace(key=numbers[e.key]) for e in program.events]
    names = {numbers[key]: name for key, name in program.names.items()}
    gradients = {numbers[key]: numbers[of] for key, of in program.gradients.items()}
    groups = {numbers[key]: group for key, group in program.groups.items()}
    return events, names, gradients, groups


def same_program(arch: Architecture, **choices: Any) -> None:
    case = ModelCase(arch, batch=2, seq=64, **choices)
    in_full = record_in_full(case)
    assert canonical(record(case)) == canonical(in_full)
    assert max(moments(case)) == summary(in_full).peaks["peak"]


@pytest.mark.parametrize("layers", [4, 5, 6, 9])
def test_layers_that_are_all_alike(layers: int) -> None:
    same_program(llama(layers=layers))


@pytest.mark.parametrize("layers", [9, 10, 11])
def test_layers_that_alternate(layers: int) -> None:
    same_program(llama(layers=layers, pattern="SF", window=16), attention="flash")


@pytest.mark.parametrize(
    "choices",
    [
        {"checkpoint": "selective", "fused_norms": True},
        {"checkpoint": "block", "offload": True, "in_backward": True},
        {"checkpoint": "attention", "attention": "naive", "microbatches": 3},
    ],
    ids=lambda choices: " ".join(choices),
)
def test_choices(choices: dict[str, Any]) -> None:
    same_program(llama(layers=16 if "offload" in choices else 6, tied=True), **choices)


@pytest.mark.parametrize(
    "choices",
    [
        *({"optimizer": name} for name in OPTIMIZERS),
        *({"loss": name} for name in ("chunked", "fused")),
        {"checkpoint": "block", "microbatches": 2},
        {"in_backward": True},
        {"masters": True, "clip": True},
        {"adapter": Adapter(4, ("q", "ffn.up"))},
    ],
    ids=lambda choices: " ".join(f"{name}={value}" for name, value in choices.items()),
)
def test_one_recording_is_enough_for_memory(choices: dict[str, Any]) -> None:
    case = ModelCase(llama(layers=8), batch=2, seq=64, **choices)
    in_full = record_in_full(case)
    assert requests(record_memory(case)) == requests(in_full)
    assert max(moments(case)) == summary(in_full).peaks["peak"]


@pytest.mark.parametrize(
    ("layout", "choices"),
    [
        (Layout(dp=2, dp_shard=2), {"masters": True}),
        (Layout(pp=3, dp_shard=2, cp=2), {"microbatches": 4, "checkpoint": "block"}),
        (Layout(tp=2, sequence_parallel=True, pp=2), {"microbatches": 3, "clip": True}),
        (Layout(dp_shard=2, zero=1), {"microbatches": 2}),
    ],
    ids=["hybrid", "stages", "tensor", "buckets"],
)
def test_the_memory_of_ranks(layout: Layout, choices: dict[str, Any]) -> None:
    for stage in {0, layout.pp - 1}:
        arch = llama(layers=10 * layout.pp)
        case = share(ModelCase(arch, batch=2, seq=64, layout=layout, rank=Rank(stage=stage), **choices))
        in_full = record_in_full(case)
        assert requests(record_memory(case)) == requests(in_full)
        assert max(moments(case)) == summary(in_full).peaks["peak"]


def requests(program: Program) -> list[tuple[Any, ...]]:
    """What a program asks of the allocator, its storages numbered in order of birth."""
    numbers = {birth.key: number for number, birth in enumerate(program.births())}
    return [
        (numbers[e.key], e.nbytes if isinstance(e, Alloc) else None)
        for e in program.events
        if isinstance(e, Alloc | Free)
    ]


def test_mixtures_with_latent_attention() -> None:
    """Three dense layers come first, as in DeepSeek-V3."""
    moe = Mixture(experts=6, top_k=2, width=16, shared=24, first_dense=3, scores="sigmoid")
    mla = Latent(kv_rank=20, rope=6, q_rank=12)
    same_program(llama(layers=9, heads=3, kv_heads=3, head_dim=16, value_dim=16, moe=moe, mla=mla))


def test_fewer_layers_are_recorded_than_repeated() -> None:
    """Nothing of a recording depends on the number of layers, but for its length."""
    long = record(ModelCase(llama(layers=30), batch=2, seq=64))
    assert len(long.events) == pytest.approx(len(record(ModelCase(llama(layers=15))).events) * 2, rel=0.1)


def test_repetitions_of_models() -> None:
    dense = llama(layers=32)
    mixture = Mixture(experts=8, top_k=2, width=16)
    assert repetition(dense.kinds()) == Repetition(0, 1)
    assert repetition(replace(dense, pattern="SSSSSF", layers=62).kinds()) == Repetition(0, 6)
    assert repetition(replace(dense, moe=mixture._replace(first_dense=3)).kinds()) == Repetition(3, 1)
    assert repetition(replace(dense, moe=mixture._replace(every=2), no_rotary_every=4).kinds()) == Repetition(0, 4)

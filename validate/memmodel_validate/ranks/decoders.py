"""Training steps of a small decoder over several ranks, on torch or on recording tensors; `xp` is either library."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

from memmodel.base.device import CPU, CUDA
from memmodel.base.dtypes import bfloat16, float32
from memmodel.models.architecture import Architecture, Latent, Mixture, Patches
from memmodel.models.layout import Layout
from memmodel.models.run import Handles, Label, training
from memmodel.models.setting import Adapter, ModelCase
from memmodel.models.share import share
from memmodel.recording import Tape
from memmodel_kernels import mixture
from memmodel_kernels.namespace import namespace
from memmodel_kernels.routing import routed
from memmodel_validate.events import MemoryEvent, program_events

Mark = Callable[[str], None]

# Sizes unlike each other, so that a wrong tensor shows in its bytes.
LLAMA = Architecture("llama", 104, 4, 48, 80, heads=8, kv_heads=4, head_dim=6, value_dim=6)
GPT = replace(
    LLAMA, name="gpt", kv_heads=8, norm="layernorm", activation="gelu-tanh", positions="learned", max_pos=64, tied=True,
    qkv_bias=True, output_bias=True, ffn_bias=True,
)  # fmt: skip

BERT = replace(
    GPT, name="bert", causal=False, placement="post", segments=2, embedding_norm=True, head_dense=True, head_bias=True,
)  # fmt: skip
VIT = replace(
    GPT, name="vit", causal=False, tied=False, head_bias=True, patches=Patches(12, 4, 3), max_pos=10, wide_logits=False,
)  # fmt: skip
MOE = replace(LLAMA, name="moe", moe=Mixture(8, 2, 24, shared=32, shared_gate=True))
MLA = replace(LLAMA, name="mla", kv_heads=8, mla=Latent(kv_rank=20, rope=2, q_rank=14))
ADAPTER = Adapter(4, ("q", "v", "output", "ffn.up", "ffn.down"), in_fp32=True)


class Program(NamedTuple):
    """A decoder under a layout of as many ranks as there are. `setting`: of `ModelCase`."""

    arch: Architecture
    layout: Callable[[int], Layout]
    setting: Mapping[str, Any] = MappingProxyType({})


PROGRAMS = {
    "decoder_tp": Program(LLAMA, lambda world: Layout(tp=world)),
    "decoder_sp": Program(LLAMA, lambda world: Layout(tp=world, sequence_parallel=True)),
    "decoder_gpt_tp": Program(GPT, lambda world: Layout(tp=world)),
    "decoder_gpt_sp": Program(GPT, lambda world: Layout(tp=world, sequence_parallel=True), {"clip": True}),
    "decoder_gpipe": Program(LLAMA, lambda world: Layout(pp=world, schedule="gpipe")),
    "decoder_1f1b": Program(LLAMA, lambda world: Layout(pp=world)),
    "decoder_interleaved": Program(
        LLAMA, lambda world: Layout(tp=world // 2, pp=2, schedule="interleaved", virtual_stages=2)
    ),
    "decoder_gpt_1f1b": Program(GPT, lambda world: Layout(pp=world), {"clip": True}),
    "decoder_lora_1f1b": Program(LLAMA, lambda world: Layout(pp=world), {"adapter": ADAPTER}),
    "decoder_autocast_1f1b": Program(LLAMA, lambda world: Layout(pp=world), {"dtype": bfloat16, "autocast": True}),
    "decoder_autocast_tp": Program(GPT, lambda world: Layout(tp=world), {"dtype": bfloat16, "autocast": True}),
    "decoder_autocast_sp": Program(
        LLAMA, lambda world: Layout(tp=world, sequence_parallel=True), {"dtype": bfloat16, "autocast": True}
    ),
    "decoder_bert_tp": Program(BERT, lambda world: Layout(tp=world)),
    "decoder_bert_sp": Program(BERT, lambda world: Layout(tp=world, sequence_parallel=True), {"clip": True}),
    "decoder_bert_1f1b": Program(BERT, lambda world: Layout(pp=world), {"clip": True}),
    "decoder_bert_cp": Program(BERT, lambda world: Layout(cp=world, zero=0)),
    "decoder_vit_tp": Program(VIT, lambda world: Layout(tp=world), {"seq": 10}),
    "decoder_vit_sp": Program(VIT, lambda world: Layout(tp=world, sequence_parallel=True), {"seq": 10, "clip": True}),
    "decoder_vit_1f1b": Program(VIT, lambda world: Layout(pp=world), {"seq": 10}),
    "decoder_fused_tp": Program(GPT, lambda world: Layout(tp=world), {"loss": "fused"}),
    "decoder_fused_sp": Program(LLAMA, lambda world: Layout(tp=world, sequence_parallel=True), {"loss": "fused"}),
    "decoder_in_place_tp": Program(LLAMA, lambda world: Layout(tp=world), {"loss": "in-place"}),
    "decoder_loss_parallel": Program(LLAMA, lambda world: Layout(tp=world), {"loss": "loss-parallel"}),
    "decoder_cp": Program(LLAMA, lambda world: Layout(cp=world)),
    "decoder_gpt_cp": Program(GPT, lambda world: Layout(cp=world, zero=0)),
    "decoder_sp_cp": Program(LLAMA, lambda world: Layout(tp=2, cp=world // 2, sequence_parallel=True)),
    "decoder_cp_1f1b": Program(LLAMA, lambda world: Layout(cp=2, pp=world // 2, zero=0)),
    "decoder_moe_sp": Program(MOE, lambda world: Layout(tp=world, sequence_parallel=True)),
    "decoder_lora_sp": Program(LLAMA, lambda world: Layout(tp=world, sequence_parallel=True), {"adapter": ADAPTER}),
    "decoder_lora_tp": Program(LLAMA, lambda world: Layout(tp=world), {"adapter": ADAPTER}),
    "decoder_mla_tp": Program(MLA, lambda world: Layout(tp=world)),
    "decoder_mla_sp": Program(MLA, lambda world: Layout(tp=world, sequence_parallel=True)),
    "decoder_ep": Program(MOE, lambda world: Layout(dp_shard=world, ep=2)),
    "decoder_ep_ddp": Program(MOE, lambda world: Layout(dp=world, ep=world)),
    "decoder_ep_zero_1": Program(MOE, lambda world: Layout(dp_shard=world, ep=2, zero=1), {"clip": True}),
    "decoder_ep_zero_2": Program(MOE, lambda world: Layout(dp_shard=world, ep=2, zero=2), {"clip": True}),
    "decoder_ep_sp": Program(MOE, lambda world: Layout(tp=2, dp_shard=world // 2, ep=2, sequence_parallel=True)),
    "decoder_zero_2_sp": Program(
        GPT, lambda world: Layout(tp=2, dp_shard=world // 2, zero=2, sequence_parallel=True), {"clip": True}
    ),
    "decoder_fsdp_1f1b": Program(LLAMA, lambda world: Layout(dp_shard=2, pp=world // 2), {"clip": True}),
    "decoder_sp_1f1b": Program(LLAMA, lambda world: Layout(tp=2, pp=world // 2, sequence_parallel=True)),
}


def whole_case(program: str, world: int) -> ModelCase:
    """The case that the ranks share."""
    arch, laid_out, setting = PROGRAMS[program]
    layout = laid_out(world)
    usual = {"batch": 2, "seq": 16, "dtype": float32, "microbatches": 4 if layout.pp > 1 else 1}
    return ModelCase(arch, layout=layout, device=CPU, **{**usual, **setting})


def trained(xp: Any, program: str, world: int, number: int, label: Label, handles: Handles) -> Callable[[Mark], None]:
    """A step of one rank."""
    case = whole_case(program, world)
    return training(xp, share(replace(case, rank=case.layout.rank(number))), label, handles)


def evenly_routed(step: Callable[[Mark], None]) -> Callable[[Mark], None]:
    """The step with as many tokens for each expert, which is what tensors without data take."""

    def run(mark: Mark) -> None:
        with mock.patch.object(mixture, "routed", _evenly):
            step(mark)

    return run


def _evenly(rows: Any, weights: Any, moe: Any) -> tuple[Any, Any]:
    scores, _ = routed(rows, weights, moe)
    count = rows.shape[0] * moe.top_k
    return scores, (namespace(rows).arange(count) // (count // moe.experts)).view(rows.shape[0], moe.top_k)


def recorded(program: str, world: int, number: int, steps: tuple[str, ...], on_gpu: bool) -> list[MemoryEvent]:
    """The events of these steps on recording tensors."""
    from memmodel import recording

    device = CUDA if on_gpu else CPU._replace(threads=1)  # of each process
    with Tape(device, sites=False) as tape:
        tape.mark("inputs")
        step = evenly_routed(trained(recording, program, world, number, lambda *_: None, {}))
        for phase in steps:
            tape.mark(phase)
            step(lambda _: None)
        tape.mark("after")
    return program_events(tape.program)

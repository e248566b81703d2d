"""On CUDA's rules, a recorded forward and backward makes the events of the same code traced."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from training import llama

from memmodel import recording
from memmodel.events.program import Program
from memmodel.gpus import load_gpu
from memmodel.models.architecture import Architecture, Latent, Mixture, Weight, layer_weights, outer_weights
from memmodel.step import device_of
from memmodel.tracer.api import trace
from memmodel_kernels.decoder import FREQUENCIES, Decoder, hidden_states
from memmodel_kernels.library_attention import library_attention
from memmodel_kernels.losses import full_loss
from memmodel_validate.events import in_order, program_events

B, N = 2, 128


def weights_of(arch: Architecture) -> list[tuple[int | None, Weight]]:
    """Each weight, with its layer."""
    outer = [(None, weight) for weight in outer_weights(arch)]
    return outer + [(i, weight) for i, kind in enumerate(arch.kinds()) for weight in layer_weights(arch, kind)]


def loss_of(arch: Architecture, given: Any, frequencies: Any, tokens: Any, targets: Any) -> Any:
    named = [(layer, weight.name, x) for (layer, weight), x in zip(weights_of(arch), given, strict=True)]
    outer = {name: x for layer, name, x in named if layer is None} | {FREQUENCIES: frequencies}
    layers = [{name: x for layer, name, x in named if layer == i} for i in range(arch.layers)]
    model = Decoder(arch, outer, layers, lambda q, k, v, kind, mask, *_: library_attention(q, k, v, mask))
    return full_loss(model, hidden_states(model, tokens), targets)[0]


def traced(arch: Architecture, gpu: str, dtype: str, autocast: bool) -> Program:
    specs = [f"w{i}={','.join(map(str, w.shape))}:{dtype}" for i, (_, w) in enumerate(weights_of(arch))]
    names = [spec.partition("=")[0] for spec in specs]
    specs += [f"angles={turning(arch) // 2}:fp32", f"tokens={B},{N}:int64", f"targets={B},{N}:int64"]

    def run(*given: Any) -> Any:
        *weights, angles, tokens, targets = given
        with torch.autocast("cuda", dtype=torch.bfloat16) if autocast else nullcontext():
            return loss_of(arch, weights, angles.detach(), tokens, targets)

    scope: dict[str, Callable[..., Any]] = {"run": run}
    listed = ", ".join([*names, "angles", "tokens", "targets"])
    exec(f"def function({listed}): return run({listed})", scope)
    return trace(scope["function"], specs, step="train", gpu=gpu, formulas=False).program


def recorded(arch: Architecture, gpu: str, dtype: str, autocast: bool) -> Program:
    kind = {"bf16": recording.bfloat16, "fp32": recording.float32}[dtype]
    with recording.Tape(device_of(load_gpu(gpu)), sites=False) as tape:
        tape.mark("inputs")
        given = [recording.empty(*w.shape, dtype=kind, requires_grad=True) for _, w in weights_of(arch)]
        angles = recording.empty(turning(arch) // 2)
        tokens, targets = (recording.empty(B, N, dtype=recording.int64) for _ in range(2))
        tape.mark("forward")
        with recording.autocast() if autocast else nullcontext():
            loss = loss_of(arch, given, angles, tokens, targets)
        tape.mark("backward")
        loss.backward()
        tape.mark("after")
    return tape.program


def turning(arch: Architecture) -> Any:
    return arch.mla.rope if arch.mla else arch.head_dim


def step_events(program: Program) -> list[tuple[str, int, int]]:
    """Births and deaths of forward and backward, storages numbered by birth within them."""
    events = program_events(program)
    kinds = [event.kind for event in events]
    numbers: dict[int, int] = {}
    found = []
    for kind, storage, nbytes in events[kinds.index("forward") : kinds.index("after")]:
        if kind == "alloc":
            numbers[storage] = len(numbers)
        if storage in numbers:
            found.append((kind, numbers[storage], nbytes))
    return in_order(found)


GPT = {"norm": "layernorm", "activation": "gelu", "positions": "learned", "max_pos": N, "qkv_bias": True}
DEEPSEEK = {
    "heads": 3, "kv_heads": 3, "head_dim": 24, "value_dim": 16, "mla": Latent(kv_rank=20, rope=8, q_rank=12),
    "moe": Mixture(experts=6, top_k=2, width=16, shared=24, scores="sigmoid", groups=3, best_groups=2),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "gpu", "dtype", "autocast"),
    [({}, "H100", "fp32", True), (GPT, "A100", "fp32", True), (DEEPSEEK, "A100", "bf16", False)],
    ids=["llama under autocast", "gpt under autocast", "deepseek"],
)
def test_the_same_events(changes: dict[str, Any], gpu: str, dtype: str, autocast: bool) -> None:
    arch = llama(layers=1, **changes)
    assert step_events(recorded(arch, gpu, dtype, autocast)) == step_events(traced(arch, gpu, dtype, autocast))

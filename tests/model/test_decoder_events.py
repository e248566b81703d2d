"""A model's steps make the same allocator events on recording tensors as on PyTorch."""

from typing import Any

import pytest
from training import llama, small_case, two_steps

from memmodel.model.architecture import Latent, Mixture
from memmodel.model.setting import ModelCase
from memmodel_validate.events import MemoryEvent
from torch_events import in_order, real_events, recorded_events

MIXTURE = Mixture(experts=6, top_k=2, width=16)
LATENT = {"heads": 3, "kv_heads": 3, "head_dim": 14, "value_dim": 10, "mla": Latent(kv_rank=20, rope=6, q_rank=12)}


def same_events(case: ModelCase) -> None:
    body = two_steps(case)
    assert in_order(recorded_events(body)) == in_order(real_events(body))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "naive", "checkpointed", "chunked"])
def test_llama_with_every_attention(attention: str, dtype: str) -> None:
    same_events(small_case(dtype=dtype, attention=attention))


@pytest.mark.parametrize(
    "changes",
    [
        {"tied": True},
        {"qkv_bias": True, "output_bias": True, "ffn_bias": True, "head_bias": True},
        {"fused_qkv": True, "fused_gate_up": True},
        {"rotary_dim": 6},
        {"qk_norm": "head"},
        {"qk_norm": "all"},
        {"placement": "both", "norm": "rmsnorm+1", "scaled": ("embedding", "residual", "logits")},
        {"placement": "output", "logit_cap": 30.0},
        {"parallel_norms": 1, "norm": "layernorm", "activation": "gelu", "positions": "learned", "max_pos": 13},
        {"activation": "relu2", "no_rotary_every": 2},
        {"pattern": "SF", "window": 5},
        {"moe": MIXTURE},
        {"moe": MIXTURE._replace(shared=24, shared_gate=True, scores="sigmoid"), **LATENT},
        {"moe": MIXTURE._replace(bias=True, scores="softmax-of-top-k"), "activation": "clamped-swiglu"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_architectures(changes: dict[str, Any]) -> None:
    dtype = "bf16" if "moe" in changes else "fp32"  # grouped products on the CPU take rows of 16 bytes
    same_events(small_case(llama(**changes), dtype))


@pytest.mark.parametrize("loss", ["full", "native", "chunked", "chunked-logits", "fused"])
def test_repeated_keys_under_every_loss(loss: str) -> None:
    same_events(small_case(dtype="bf16", repeat_kv=True, loss=loss, chunks=2))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_generation(phase: str) -> None:
    body = two_steps(small_case(dtype="bf16", phase=phase))
    assert beyond_numbers(recorded_events(body)) == beyond_numbers(real_events(body))


def beyond_numbers(events: list[MemoryEvent]) -> list[tuple[str, int, int]]:
    """Events of storages beyond 8 bytes: the position of a single token cannot be told from the CPU's own scalars."""
    numbers: dict[int, int] = {}
    return in_order([(kind, numbers.setdefault(n, len(numbers)), size) for kind, n, size in events if size > 8])

"""A decoder's training steps make the same allocator events on recording tensors as on PyTorch."""

from typing import Any

import pytest
from training import ATTENTION, llama, two_steps

from torch_events import Body, in_order, real_events, recorded_events


def same_events(body: Body) -> None:
    assert in_order(recorded_events(body)) == in_order(real_events(body))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_llama_with_every_attention(attention: str, dtype: str) -> None:
    same_events(two_steps(llama(), dtype, attention=attention))


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
    ],
    ids=lambda changes: " ".join(changes),
)
def test_architectures(changes: dict[str, Any]) -> None:
    same_events(two_steps(llama(**changes)))


@pytest.mark.parametrize("recompute", ["block", "attention"])
def test_recomputation(recompute: str) -> None:
    same_events(two_steps(llama(), recompute=recompute, attention="naive"))

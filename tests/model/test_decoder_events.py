"""A decoder's training steps make the same allocator events on recording tensors as on PyTorch."""

from typing import Any

import pytest
from training import ATTENTION, B, N, decoder, llama, two_steps

from memmodel_kernels.generation import next_token_logits
from memmodel_validate.events import MemoryEvent
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
        {"pattern": "SF", "window": 5},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_architectures(changes: dict[str, Any]) -> None:
    same_events(two_steps(llama(**changes)))


@pytest.mark.parametrize("recompute", ["block", "attention"])
def test_recomputation(recompute: str) -> None:
    same_events(two_steps(llama(), recompute=recompute, attention="naive"))


@pytest.mark.parametrize("new", [N, 1], ids=["prompt", "token"])
def test_generation(new: int) -> None:
    def body(t: Any) -> None:
        model, _ = decoder(t, llama(), "bfloat16")
        caches = [tuple(t.zeros(B, 2, N, 8, dtype=t.bfloat16) for _ in range(2)) for _ in range(2)]
        for _ in range(2):
            next_token_logits(model, t.zeros(B, new, dtype=t.int64), caches, lambda _: None)

    assert beyond_numbers(recorded_events(body)) == beyond_numbers(real_events(body))


def beyond_numbers(events: list[MemoryEvent]) -> list[tuple[str, int, int]]:
    """Events of storages beyond 8 bytes: the position of a single token cannot be told from the CPU's own scalars."""
    numbers: dict[int, int] = {}
    return in_order([(kind, numbers.setdefault(n, len(numbers)), size) for kind, n, size in events if size > 8])

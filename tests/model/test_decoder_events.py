"""A model's steps make the same allocator events on recording tensors as on PyTorch."""

from typing import Any

import pytest
from training import beyond_numbers, llama, small_case, two_steps

from memmodel.events.liveness import saved_bytes
from memmodel.models.architecture import Latent, Mixture
from memmodel.models.program import program_of
from memmodel.models.setting import ModelCase
from torch_events import in_order, real_events, recorded_events

MIXTURE = Mixture(experts=6, top_k=2, width=16)
ENCODER = {
    "causal": False, "placement": "post", "norm": "layernorm", "activation": "gelu", "positions": "learned",
    "segments": 2, "embedding_norm": True, "head_dense": True, "head_bias": True, "tied": True, "qkv_bias": True,
}  # fmt: skip
FED = {"dropped": ("feed-forward",)}  # StableLM
LATENT = {"heads": 3, "kv_heads": 3, "head_dim": 14, "value_dim": 10, "mla": Latent(kv_rank=20, rope=6, q_rank=12)}


def same_events(case: ModelCase) -> None:
    body = two_steps(case)
    assert in_order(recorded_events(body)) == in_order(real_events(body))


@pytest.mark.parametrize(
    ("attention", "dtype"),
    [("sdpa", "fp32"), ("sdpa", "bf16"), ("eager", "bf16"), ("checkpointed", "bf16"), ("chunked", "fp32")],
)
def test_llama_with_every_attention(attention: str, dtype: str) -> None:
    same_events(small_case(dtype=dtype, attention=attention))


@pytest.mark.parametrize(
    "changes",
    [
        {"fused_qkv": True, "fused_gate_up": True, "rotary_dim": 6, "head_bias": True},
        {"qk_norm": "all", "placement": "output", "scaled": ("embedding", "residual", "logits")},
        {"parallel_norms": 1, "norm": "layernorm-no-bias", "activation": "relu2", "turning": "neighbours"},
        {"norm": "layernorm-no-weight"},
        {"parallel_norms": 2, "norm": "layernorm", "activation": "gelu-new"},
        {"no_rotary_every": 2, "parallel_norms": 2, "activation": "gelu-tanh-glu"},
        {"moe": MIXTURE._replace(shared=24, shared_gate=True, scores="sigmoid", groups=2, best_groups=1), **LATENT},
        {"moe": MIXTURE._replace(scores="softmax-cast"), "qk_norm": "head"},
        {"moe": MIXTURE},
        {"moe": MIXTURE._replace(shared=24, scores="sigmoid-before")},
        ENCODER,
        {"moe": MIXTURE._replace(bias=True, scores="softmax-of-top-k"), "activation": "clamped-swiglu"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_architectures(changes: dict[str, Any]) -> None:
    dtype = "bf16" if "moe" in changes else "fp32"  # grouped products on the CPU take rows of 16 bytes
    same_events(small_case(llama(**changes), dtype))


@pytest.mark.parametrize("choices", [{}, {"checkpoint": "block", "microbatches": 2}, {"phase": "prefill"}], ids=str)
@pytest.mark.parametrize("scores", ["softmax", "softmax-cast", "sigmoid"])
def test_a_capacity(scores: str, choices: dict[str, Any]) -> None:
    arch = llama(moe=MIXTURE._replace(scores=scores, shared=24), tied=True)
    same_events(small_case(arch, "bf16", capacity=0.5, **choices))


def test_what_a_capacity_saves() -> None:
    """With factor f, c = ceil(f t k / E) rows of each expert are kept for backward.

    In bf16 these are what enters, what leaves and that times its score, of the hidden size; gate and up, which are one
    tensor, the activated gate and the product, of the width each; a score in fp32, and in int64 its place and token.
    """
    t, k, experts, hidden, width = 2 * 11, 2, 6, 48, 16
    saved = [
        saved_bytes(program_of(small_case(llama(moe=Mixture(experts, k, width), layers=1), "bf16", capacity=factor)))
        for factor in (0.5, 1.5)
    ]
    rows = [-(-f * t * k // (2 * experts)) for f in (1, 3)]
    assert rows == [4, 11]
    each = 2 * (3 * hidden + 4 * width) + 4 + 2 * 8
    assert saved[1] - saved[0] == experts * (rows[1] - rows[0]) * each


def test_dropout_everywhere() -> None:
    learned = llama(positions="learned", rotary_dim=0, norm="layernorm", activation="gelu")
    same_events(small_case(learned, dropout=0.1, attention_dropout=0.1, embedding_dropout=0.1, attention="eager"))
    parallel = llama(parallel_norms=1, norm="layernorm", activation="gelu")
    same_events(small_case(parallel, dropout=0.1))
    of_one = [saved_bytes(program_of(ModelCase(llama(**changes), seq=64, dropout=0.1))) for changes in ({}, FED)]
    # A byte an element that is dropped, in each layer.
    assert of_one[0] - of_one[1] == parallel.layers * 64 * parallel.hidden


@pytest.mark.parametrize("loss", ["full", "native", "in-place", "chunked", "chunked-logits", "fused"])
def test_repeated_keys_under_every_loss(loss: str) -> None:
    same_events(small_case(dtype="bf16", repeat_kv=True, loss=loss, chunks=2))


@pytest.mark.parametrize(("phase", "changes"), [("prefill", {}), ("decode", {}), ("prefill", ENCODER)])
def test_without_gradients(phase: str, changes: dict[str, Any]) -> None:
    body = two_steps(small_case(llama(**changes), dtype="bf16", phase=phase))
    assert beyond_numbers(recorded_events(body)) == beyond_numbers(real_events(body))

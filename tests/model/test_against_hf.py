"""A recorded step beside the same step of Hugging Face's class, traced."""

from typing import Any

import pytest

import memmodel
from memmodel import UsageError

SIZES = {
    **{"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2},
    **{"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32},
}


GPT2 = {"n_embd": 256, "n_layer": 2, "n_head": 8}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cohere", "falcon", "gemma2", "gpt_neox", "mixtral", "olmo", "olmo3", "phi3"])
def test_live_peaks_are_within_one_per_cent(kind: str) -> None:
    pytest.importorskip("transformers")
    from memmodel.tracer.against import against_hugging_face

    config = {**SIZES, "model_type": kind, "pad_token_id": 0}
    if kind == "falcon":  # its class works the width of a head out
        del config["head_dim"]
    report = memmodel.model(config=config, gpu="H100", batch=4, seq=256)
    found = against_hugging_face(report.prediction.case, config, report.prediction.memory, report.gpu)
    assert found.ours == pytest.approx(found.theirs, rel=0.01)
    assert found.kinds["optimizer"][0] == found.kinds["optimizer"][1]
    assert sum(ours for ours, _ in found.kinds.values()) == found.ours
    for part in ("attention", "feed-forward"):
        assert found.parts[part][0] == pytest.approx(found.parts[part][1], rel=0.001)


@pytest.mark.parametrize("phase", ["train", "prefill"])
def test_an_encoder(phase: str) -> None:
    pytest.importorskip("transformers")
    from memmodel.tracer.against import against_hugging_face

    bare = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = {"max_position_embeddings": 256, **SIZES, **bare, "model_type": "bert"}
    report = memmodel.model(config=config, gpu="H100", batch=4, seq=256, phase=phase)
    found = against_hugging_face(report.prediction.case, config, report.prediction.memory, report.gpu)
    assert found.title == "BertForMaskedLM"
    assert found.ours == pytest.approx(found.theirs, rel=0.001)


@pytest.mark.parametrize("phase", ["train", "prefill"])
def test_a_model_of_images(phase: str) -> None:
    pytest.importorskip("transformers")
    from memmodel.tracer.against import against_hugging_face

    config = {**SIZES, "model_type": "vit", "image_size": 64, "patch_size": 8, "num_labels": 10}
    report = memmodel.model(config=config, gpu="H100", batch=16, phase=phase)
    found = against_hugging_face(report.prediction.case, config, report.prediction.memory, report.gpu)
    assert found.title == "ViTForImageClassification"
    assert abs(found.ours - found.theirs) <= 8 * 16  # the labels


EXPERTS = {
    **{"num_local_experts": 8, "num_experts_per_tok": 2, "num_experts": 8, "moe_intermediate_size": 128},
    "shared_expert_intermediate_size": 256,
}
EACH = {"num_key_value_heads": 8}  # a layer's cache is as large as its queries


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        *((kind, {}) for kind in ("llama", "gpt2", "stablelm", "gpt_bigcode", "gpt_oss", "olmo", "falcon")),
        *((kind, EACH) for kind in ("cohere", "gpt_neox", "olmo2", "qwen3", "starcoder2")),
        ("olmo3", {"num_hidden_layers": 4}),
        ("phi3", {**EACH, "pad_token_id": 0}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("mistral", {"sliding_window": 128}),
    ],
)
def test_a_prompt(kind: str, own: dict[str, Any]) -> None:
    """Within what the class holds besides: the numbers of the positions."""
    pytest.importorskip("transformers")
    from memmodel.tracer.against import against_hugging_face

    config = {**SIZES, **GPT2, **EXPERTS, "model_type": kind, **own}
    if kind == "falcon":  # its class works the width of a head out
        del config["head_dim"]
    report = memmodel.model(config=config, gpu="H100", batch=4, seq=512, phase="prefill")
    found = against_hugging_face(report.prediction.case, config, report.prediction.memory, report.gpu)
    assert found.ours == pytest.approx(found.theirs, rel=0.001)


def test_a_mask_that_no_layer_reads() -> None:
    """Qwen2-MoE's class makes one of n x n bools for windows of 0 keys (create_sliding_window_causal_mask)."""
    config = {**SIZES, **EXPERTS, "model_type": "qwen2_moe"}
    both = [
        memmodel.model(config=config | own, gpu="H100", batch=4, seq=512, phase="prefill").prediction.memory
        for own in ({}, {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 2})
    ]
    assert both[0].live_peak_bytes - both[1].live_peak_bytes == 512 * 512


def test_a_setting_that_the_class_lacks_is_refused() -> None:
    pytest.importorskip("torch")
    from memmodel.tracer.against import against_hugging_face

    report = memmodel.model(config={**SIZES, "model_type": "llama"}, gpu="H100", seq=64, loss="fused")
    with pytest.raises(UsageError, match="--against hf with loss fused"):
        against_hugging_face(report.prediction.case, {}, report.prediction.memory, report.gpu)

"""Hugging Face's configurations as architectures: counts, defaults, and one clear sentence for a wrong file."""

from typing import Any

import pytest

from memmodel import UsageError
from memmodel.models.architecture import Architecture, Latent, parameters
from memmodel.models.catalogue import listed, models
from memmodel.models.choices import model_case
from memmodel.models.families import FAMILIES, architecture_of

LLAMA = {
    **{"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 160},
    **{"num_hidden_layers": 2, "num_attention_heads": 8},
}


def architecture(**changed: Any) -> Architecture:
    return architecture_of({**LLAMA, **changed}, "config.json")


@pytest.mark.parametrize("name", list(models()))
def test_a_listed_model_has_the_parameters_of_its_class(name: str) -> None:
    model = listed(name)
    assert sum(parameters(model.architecture).values()) == model.parameters


def test_what_a_file_leaves_out_is_as_the_class_has_it() -> None:
    gemma = architecture_of({"model_type": "gemma3", "text_config": {"hidden_size": 2560}}, "config.json")
    assert (gemma.vocab, gemma.heads, gemma.kv_heads, gemma.head_dim) == (262208, 8, 4, 256)
    assert (gemma.pattern, gemma.placement, gemma.qk_norm, gemma.tied) == ("SSSSSF", "both", "head", True)
    assert architecture(model_type="mistral").window == 4096
    assert architecture(model_type="mistral", sliding_window=None).window == 0
    assert architecture().kv_heads == 8
    assert architecture(model_type="qwen3", num_key_value_heads=4).head_dim == 128
    assert architecture(model_type="phi3", partial_rotary_factor=0.5).rotary_dim == 4


def test_a_mixture_and_a_latent_are_read() -> None:
    deepseek = listed("deepseek-v3").architecture
    assert deepseek.mla == Latent(512, 64, 1536)
    assert deepseek.moe is not None
    assert [kind.mixture for kind in deepseek.kinds()] == [False] * 3 + [True] * 58


WRONG = [
    ({"vocab_size": ...}, "there is no vocab_size"),
    ({"vocab_size": "32k"}, "vocab_size 32k: expected a whole number"),
    ({"hidden_size": -1}, "hidden_size -1: expected a whole number of at least 1"),
    ({"hidden_size": 2**40}, "hidden_size 1099511627776: sizes above"),
    ({"num_hidden_layers": 10**6}, "1000000 layers: above 10,000 is taken for a mistake"),
    ({"num_attention_heads": 7}, "hidden_size 64 does not divide into 7 heads"),
    ({"num_key_value_heads": 3}, "8 heads do not divide among 3 kv heads"),
    ({"hidden_act": "softplus"}, "unknown activation 'softplus'"),
    ({"attention_bias": "yes"}, "attention_bias is 'yes', expected true or false"),
    ({"model_type": "lama"}, "unknown model_type 'lama': did you mean llama"),
    ({"model_type": "bart"}, "'bart' is an encoder with a decoder of another kind"),
    (
        {"model_type": "t5", "d_model": 64, "num_layers": 2, "num_heads": 8, "intermediate_size": ...},
        "there is no d_ff",
    ),
    ({"model_type": "t5", "feed_forward_proj": "glued-gelu"}, "feed_forward_proj is glued-gelu"),
    ({"model_type": "bert", "is_decoder": True}, "is_decoder is true"),
    ({"model_type": "vit", "patch_size": 500}, "patch_size 500 of image_size 224"),
    ({"model_type": ["llama"]}, "unknown model_type"),
    ({"model_type": ...}, "there is no model_type"),
    ({"model_type": "mixtral", "num_experts_per_tok": 9}, "a token goes to 9 of 8 experts"),
    ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "expected a list of 2"),
    (
        {"model_type": "olmo3", "sliding_window": None, "layer_types": ["sliding_attention"] * 2},
        "sliding_window is null",
    ),
    ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm is true"),
    ({"partial_rotary_factor": 2}, "partial_rotary_factor is 2"),
    ({"intermediate_size": 2**31, "hidden_size": 2**30}, "parameters: above 1e\\+15 is taken for a mistake"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_file_is_one_sentence(changed: dict[str, Any], message: str) -> None:
    document = {key: value for key, value in {**LLAMA, **changed}.items() if value is not ...}
    with pytest.raises(UsageError, match=f"config.json: .*{message}"):
        architecture_of(document, "config.json")
    with pytest.raises(UsageError, match="expected a table"):
        architecture_of([document], "config.json")


def dropouts(config: dict[str, Any], **given: Any) -> tuple[float, float, float]:
    case = model_case(architecture_of(config, "config.json"), seq=64, **given)
    return case.dropout, case.attention_dropout, case.embedding_dropout


def test_a_configurations_own_dropout_is_taken_in_training() -> None:
    gpt2 = {"model_type": "gpt2", "vocab_size": 1024, "n_embd": 256, "n_layer": 4, "n_head": 8, "n_positions": 64}
    assert dropouts(gpt2) == (0.1, 0.1, 0.1)  # as of the class
    assert dropouts(gpt2 | {"resid_pdrop": 0.2, "attn_pdrop": 0.0, "embd_pdrop": None}) == (0.2, 0.0, 0.0)
    assert dropouts(gpt2, dropout=0.0, attention_dropout=0.3) == (0.0, 0.3, 0.1)
    assert dropouts(gpt2, phase="prefill") == (0.0, 0.0, 0.0)
    assert dropouts(LLAMA | {"attention_dropout": 0.1}) == (0.0, 0.1, 0.0)
    # Of other classes' keys none is read, and Seed-OSS drops where its file does not say (configuration_seed_oss.py).
    assert dropouts(LLAMA | {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "hidden_dropout": 0.2}) == (0.0, 0.0, 0.0)
    own = LLAMA | {"num_key_value_heads": 8}
    assert dropouts(own | {"model_type": "stablelm", "hidden_dropout": 0.2}) == (0.2, 0.0, 0.0)
    assert dropouts(own | {"model_type": "seed_oss"}) == (0.1, 0.1, 0.0)
    with pytest.raises(UsageError, match=r"config\.json: attn_pdrop is 1\.5, expected a probability from 0 to below 1"):
        dropouts(gpt2 | {"attn_pdrop": 1.5})


_ELSEWHERE = ("vit", "modernbert", "t5", "mt5", "whisper")  # test_against_hf, test_encoder_decoder


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind not in ("kimi_k2", *_ELSEWHERE)])
def test_a_family_has_the_parameters_of_its_class(kind: str) -> None:
    """Two layers of each class that transformers builds, with the defaults that it has and we do not state."""
    transformers = pytest.importorskip("transformers")
    import torch

    sizes = {"vocab_size": 1024, "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 320, "head_dim": 48}
    given = {
        "model_type": kind,
        "num_hidden_layers": 4,
        **sizes,
        "num_experts_per_tok": 2,
        "pad_token_id": None,
        "num_key_value_heads": 4,
    }
    if kind in ("falcon", "olmoe"):
        del given["head_dim"]  # Falcon's class has none, and OLMoE's norm of keys is as wide as hidden_size says
    if kind in ("gpt2", "gpt_bigcode"):
        given = {"model_type": kind, "vocab_size": 1024, "n_embd": 256, "n_layer": 4, "n_head": 8, "n_positions": 64}
    config = transformers.AutoConfig.for_model(**given)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    count = sum({id(p): p.numel() for p in model.parameters()}.values())
    assert sum(parameters(architecture_of(given, "config.json")).values()) == count

"""Hugging Face's encoders, alone or before a decoder, as architectures.

Source: transformers 5.24, models/*/configuration_*.py (defaults) and modeling_*.py (biases, norms, fused layers).
"""

from typing import Any

from memmodel.models.architecture import Architecture, Patches, Spectrogram
from memmodel.models.config_json import MOST_LAYERS, ConfigJson
from memmodel.models.dropouts import dropouts, dropped_blocks
from memmodel.models.shared_keys import Fields, biases_everywhere, named_as, transformer_keys, without


def bert(c: ConfigJson) -> Fields:
    """The encoder with its head for masked tokens (BertForMaskedLM)."""
    if c.flag("is_decoder"):
        raise c.error("is_decoder is true: BERT is modelled as an encoder")
    plain = without(c, "head_dim", "num_key_value_heads")
    shared = transformer_keys(plain, longest=512, tied=True, act="gelu", gated=False)
    return {
        **{**shared, **biases_everywhere(), "norm": "layernorm", "placement": "post", "rotary_dim": 0},
        **{"causal": False, "positions": "learned", "segments": c.size("type_vocab_size", 2), "embedding_norm": True},
        **{"head_dense": True, "head_bias": True, "wide_softmax": False, "wide_logits": False, "holds": ("hidden",)},
    }


def roberta(c: ConfigJson) -> Fields:
    """BERT, whose first positions are those of padding."""
    shared, padded = bert(c), c.optional_size("pad_token_id", 1) + 1
    return {**shared, "max_pos": max(shared["max_pos"] - padded, 1), "padded": padded}


def vit(c: ConfigJson) -> Fields:
    """The encoder of images with its head for classes (ViTForImageClassification)."""
    patches = Patches(c.size("image_size", 224), c.size("patch_size", 16), c.size("num_channels", 3))
    if patches.size > patches.image:
        raise c.error(f"patch_size {patches.size} of image_size {patches.image}: expected at most the image's")
    labels = c.value("id2label", None)
    classes = len(labels) if isinstance(labels, dict) and labels else c.size("num_labels", 2)
    inner = ConfigJson({**c.document, "vocab_size": classes}, c.where)
    shared = transformer_keys(without(inner, "num_key_value_heads"), act="gelu", gated=False)
    bias = c.flag("qkv_bias", True)
    return {
        **{**shared, **biases_everywhere(), "qkv_bias": bias, "norm": "layernorm", "rotary_dim": 0},
        **{"causal": False, "positions": "learned", "patches": patches, "max_pos": patches.per_image + 1},
        **{"head_bias": True, "wide_logits": False},
    }


def modernbert(c: ConfigJson) -> Fields:
    """The encoder with its head for masked tokens (ModernBertForMaskedLM), on padded sequences."""
    shared = transformer_keys(_one_kv_head_each(c), longest=8192, tied=True, act="gelu")
    every = min(c.size("global_attn_every_n_layers", 3), MOST_LAYERS)
    pattern = c.pattern("F" + "S" * (every - 1))
    bias, norm_bias = c.flag("attention_bias"), c.flag("norm_bias")
    # Each token sees half of local_attention on both sides.
    window = {"window": c.size("local_attention", 128) // 2} if "S" in pattern else {}
    return {
        **{**shared, **window, "pattern": pattern, "causal": False, "bare_start": True, "embedding_norm": True},
        **{"norm": "layernorm" if norm_bias else "layernorm-native-no-bias", "turning": "halves-fp32"},
        **{"qkv_bias": bias, "output_bias": bias, "ffn_bias": c.flag("mlp_bias"), "rotary_by_kind": True},
        **{"fused_qkv": True, "fused_gate_up": True, "head_dense": True, "head_bias": c.flag("decoder_bias", True)},
        "head_dense_bias": c.flag("classifier_bias"),
        **dropped_blocks(c, attention="attention_dropout", hidden="mlp_dropout"),
    }


def t5(c: ConfigJson) -> Fields:
    """The encoder with its decoder and head (T5ForConditionalGeneration)."""
    own = "gated-gelu" if c.document["model_type"] == "mt5" else "relu"
    gate, _, act = str(c.value("feed_forward_proj", own)).rpartition("-")
    if gate not in ("", "gated"):
        raise c.error(f"feed_forward_proj is {gate}-{act}: expected an activation, or gated- and one")
    # As the class reads it: gated-gelu is the approximation by tanh in plain operators.
    named = {"act": "gelu_new" if (gate, act) == ("gated", "gelu") else act}
    # Files of v1.1 say that the head is not tied, which the class takes as: do not scale. It ties all the same.
    scaled = () if c.value("tie_word_embeddings", None) is False else ("output",)
    names = {"d_model": "hidden_size", "d_ff": "intermediate_size", "d_kv": "head_dim", "num_heads": _HEADS}
    longest = c.size("n_positions", 512)
    c = named_as(c, {**names, "num_layers": "num_hidden_layers"})
    c.document = {**c.document, **named, "max_position_embeddings": longest}
    fields = {
        **{"tied": True, "norm": "rmsnorm-t5", "positions": "relative", "rotary_dim": 0, "wide_logits": False},
        **{"buckets": c.size("relative_attention_num_buckets", 32), "wide_softmax": False},
        "activation": c.activation(bool(gate), "act"),
        "dropped": ("attention", "feed-forward", "hidden", "final"),
    }
    shared = transformer_keys(_one_kv_head_each(c), head_dim=64, tied=True)
    layers = c.size("num_decoder_layers", shared["layers"])
    return _with_encoder(c, {**shared, **fields, "scaled": scaled}, own_of_encoder={}, layers=layers)


_HEADS = "num_attention_heads"


def _one_kv_head_each(c: ConfigJson) -> ConfigJson:
    return without(c, "num_key_value_heads")


def _with_encoder(c: ConfigJson, fields: Fields, own_of_encoder: Fields, **own: Any) -> Fields:
    """A decoder and the encoder before it, which is like it but for what is its own."""
    name = str(c.document["model_type"])
    theirs = {**fields, **dropouts(c), "vocab": 0, "causal": False, "scaled": (), **own_of_encoder}
    return {**fields, "encoder": Architecture(f"{name}'s encoder", **theirs), **own}


def whisper(c: ConfigJson) -> Fields:
    """The encoder of sounds with its decoder and head (WhisperForConditionalGeneration)."""
    longest = c.size("max_source_positions", 1500)
    names = {"encoder_layers": "num_hidden_layers", "encoder_ffn_dim": "intermediate_size"}
    c = named_as(c, {**names, "d_model": "hidden_size", "encoder_attention_heads": _HEADS})
    for key in ("encoder_layerdrop", "decoder_layerdrop"):
        if c.probability(0.0, key):
            raise c.error(f"{key} is {c.number(key):g}: layers that are left out by chance are not modelled, give 0")
    heads = c.size("decoder_attention_heads", c.size(_HEADS))
    if c.size("hidden_size") % heads:
        raise c.error(f"d_model {c.size('hidden_size')} does not divide into {heads} decoder_attention_heads")
    own = {
        **{**biases_everywhere(), "k_bias": False, "copied_heads": True, "norm": "layernorm", "rotary_dim": 0},
        **{"positions": "learned", "holds": ("positions", "every-position")},
        **{"wide_softmax": False, "wide_logits": False},
        "activation": c.activation(False, "activation_function", default="gelu"),
        "max_pos": c.size("max_target_positions", 448),
        **dropped_blocks(c, attention="dropout", feed_forward="dropout", hidden="activation_dropout"),
    }
    plain = _one_kv_head_each(without(c, "head_dim"))
    shared = {**transformer_keys(plain, tied=True, act="gelu", gated=False), **own}
    encoder = {"max_pos": longest, "spectrogram": Spectrogram(c.size("num_mel_bins", 80))}
    width = shared["hidden"] // heads
    return _with_encoder(
        c, shared, encoder, layers=c.size("decoder_layers"), ffn=c.size("decoder_ffn_dim"),
        heads=heads, kv_heads=heads, head_dim=width, value_dim=width,
    )  # fmt: skip

"""What families of models share in a config.json, with the defaults of their classes."""

from collections.abc import Callable, Mapping
from typing import Any

from memmodel.models.config_json import ConfigJson

Fields = dict[str, Any]
Family = Callable[[ConfigJson], Fields]


def transformer_keys(
    c: ConfigJson,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    longest: int = 2048,
    tied: bool = False,
    act: str = "silu",
    gated: bool = True,
) -> Fields:
    """The keys that most families share; the arguments are the class's defaults."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    width = _head_dim(c, hidden, heads, head_dim)
    return {
        "vocab": c.size("vocab_size"),
        "layers": c.size("num_hidden_layers"),
        "hidden": hidden,
        "ffn": c.size("intermediate_size"),
        "heads": heads,
        "kv_heads": c.size("num_key_value_heads", kv_heads or heads),
        "head_dim": width,
        "value_dim": width,
        "tied": c.flag("tie_word_embeddings", tied),
        "activation": c.activation(gated, "hidden_activation", "hidden_act", default=act),
        "max_pos": c.size("max_position_embeddings", longest),
        "rotary_dim": c.turning(width),
    }


def _head_dim(c: ConfigJson, hidden: int, heads: int, default: int | None = None) -> int:
    if c.document.get("head_dim") is not None or default:
        return c.size("head_dim", default)
    if hidden % heads:
        raise c.error(f"hidden_size {hidden} does not divide into {heads} heads: give head_dim, or sizes that do")
    return hidden // heads


def without(c: ConfigJson, *keys: str) -> ConfigJson:
    """The configuration without keys that the class does not read."""
    return ConfigJson({key: value for key, value in c.document.items() if key not in keys}, c.where, c.spelled)


def all_biases(c: ConfigJson, key: str = "attention_bias", default: bool = False) -> Fields:
    """The biases of the projections of attention, under one key."""
    given = c.flag(key, default)
    return {"qkv_bias": given, "output_bias": given}


def named_as(c: ConfigJson, names: Mapping[str, str]) -> ConfigJson:
    """The configuration with a family's own names of keys as the others have them."""
    renamed = {new: c.document[old] for old, new in names.items() if old in c.document}
    return ConfigJson({**c.document, **renamed}, c.where, {**c.spelled, **{new: old for old, new in names.items()}})


def biases_everywhere() -> Fields:
    """Biases of every linear layer."""
    return {"qkv_bias": True, "output_bias": True, "ffn_bias": True}

"""The dropout that a config.json trains with: which keys a class reads, and what it does without them.

Source: transformers 5.24, models/*/configuration_*.py (defaults) and modeling_*.py (which are read).
"""

from memmodel.models.config_json import ConfigJson
from memmodel.models.shared_keys import Fields

# On residual branches, embeddings and attention ("": none), with their default; other classes read attention_dropout.
_KEYS = {
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("resid_pdrop", "embd_pdrop", "attn_pdrop", 0.1)),
    "phi": ("resid_pdrop", "embd_pdrop", "attention_dropout", 0.0),
    "phi3": ("resid_pdrop", "", "attention_dropout", 0.0),
    "gpt_neox": ("hidden_dropout", "hidden_dropout", "attention_dropout", 0.0),
    **dict.fromkeys(("falcon", "stablelm"), ("hidden_dropout", "", "attention_dropout", 0.0)),
    "starcoder2": ("residual_dropout", "embedding_dropout", "attention_dropout", 0.0),
    "seed_oss": ("residual_dropout", "", "attention_dropout", 0.1),
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert"),
        ("hidden_dropout_prob", "hidden_dropout_prob", "attention_probs_dropout_prob", 0.1),
    ),
    "vit": ("hidden_dropout_prob", "hidden_dropout_prob", "attention_probs_dropout_prob", 0.0),
    "modernbert": ("mlp_dropout", "embedding_dropout", "attention_dropout", 0.0),
    **dict.fromkeys(("t5", "mt5"), ("dropout_rate", "dropout_rate", "dropout_rate", 0.1)),
    "whisper": ("dropout", "dropout", "attention_dropout", 0.0),
}


def dropouts(c: ConfigJson) -> Fields:
    """The probabilities of dropout, as the configuration says or its class has them."""
    *keys, usual = _KEYS.get(c.document["model_type"], ("", "", "attention_dropout", 0.0))
    names = ("dropout", "embedding_dropout", "attention_dropout")
    return {name: c.probability(usual, key) if key else 0.0 for name, key in zip(names, keys, strict=True)}


def dropped_blocks(c: ConfigJson, **keys: str) -> Fields:
    """What has dropout, where each has a key of its own: of unlike probabilities the largest stands for all."""
    found = {block: c.probability(0.0, key) for block, key in keys.items()}
    dropped = tuple(block.replace("_", "-") for block, one in found.items() if one)
    return {"dropout": max(found.values()), "dropped": dropped}

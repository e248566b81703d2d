"""Small models with an encoder, as Hugging Face's classes are built: ModernBERT, T5 and Whisper."""

from dataclasses import replace
from typing import Any

from training import llama

from memmodel.models.architecture import Architecture, Spectrogram

MODERNBERT: dict[str, Any] = {
    **{"causal": False, "norm": "layernorm-native-no-bias", "embedding_norm": True, "bare_start": True},
    **{"fused_qkv": True, "fused_gate_up": True, "activation": "gelu-glu", "turning": "halves-fp32"},
    **{"rotary_by_kind": True, "pattern": "FS", "window": 3, "tied": True, "dropped": ("attention", "hidden")},
    **{"head_dense": True, "head_bias": True, "head_dense_bias": False},
}
T5: dict[str, Any] = {
    **{"norm": "rmsnorm-t5", "positions": "relative", "buckets": 8, "rotary_dim": 0, "activation": "gelu-new-glu"},
    **{"wide_logits": False, "wide_softmax": False, "tied": True, "scaled": ("output",), "kv_heads": 6},
    "dropped": ("attention", "feed-forward", "hidden", "final"),
}
WHISPER: dict[str, Any] = {
    **{"norm": "layernorm", "positions": "learned", "rotary_dim": 0, "activation": "gelu", "tied": True},
    **{"wide_logits": False, "wide_softmax": False, "kv_heads": 6, "copied_heads": True, "max_pos": 16},
    **{"qkv_bias": True, "k_bias": False, "output_bias": True, "ffn_bias": True},
}


def _with_encoder(arch: Architecture, **own: Any) -> Architecture:
    return replace(arch, encoder=replace(arch, name="encoder", vocab=0, causal=False, scaled=(), **own))


def modernbert() -> Architecture:
    return llama(**MODERNBERT)


def t5() -> Architecture:
    return _with_encoder(llama(**T5))


def whisper() -> Architecture:
    return _with_encoder(llama(**WHISPER), max_pos=9, spectrogram=Spectrogram(5))

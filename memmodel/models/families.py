"""Hugging Face's model types as architectures, with the defaults of their classes.

Source: transformers 5.24, models/*/configuration_*.py (defaults) and modeling_*.py (biases, norms, fused layers).
"""

from typing import Any

from memmodel.base.errors import UsageError, shortened, unknown
from memmodel.models.architecture import Architecture, Latent, Mixture, parameters
from memmodel.models.config_json import MOST_LAYERS, ConfigJson, check_architecture
from memmodel.models.dropouts import dropouts, dropped_blocks
from memmodel.models.encoders import bert, modernbert, roberta, t5, vit, whisper
from memmodel.models.shared_keys import (
    Family,
    Fields,
    all_biases,
    biases_everywhere,
    named_as,
    transformer_keys,
    without,
)


def _window(c: ConfigJson, default: int | None, pattern: str = "S") -> Fields:
    """The sliding window and the layers that have it; all of them see all keys where it is null."""
    window = c.optional_size("sliding_window", default)
    letters = c.pattern(pattern if window else "F")
    if "S" in letters and not window:
        raise c.error("layer_types has sliding_attention, but sliding_window is null: give the window")
    return {"window": window, "pattern": letters} if "S" in letters else {"pattern": letters}


def _qwen_window(c: ConfigJson) -> Fields:
    """Qwen's window: off by default, and of the layers from max_window_layers on."""
    if not c.flag("use_sliding_window"):
        return {}
    # A file may say any number of layers; so many letters would fill memory before `check_architecture` refuses it.
    full, layers = c.optional_size("max_window_layers", 28), min(c.size("num_hidden_layers"), MOST_LAYERS)
    return _window(c, 4096, "F" * min(full, layers) + "S" * max(layers - full, 0))


def _llama(c: ConfigJson) -> Fields:
    return {**transformer_keys(c), **all_biases(c), "ffn_bias": c.flag("mlp_bias")}


def _mistral(c: ConfigJson) -> Fields:
    return {**transformer_keys(c, kv_heads=8, longest=131072), **_window(c, 4096)}


def _ministral3(c: ConfigJson) -> Fields:
    return {**transformer_keys(c, kv_heads=8, head_dim=128, longest=262144), **_window(c, None)}


def _mixtral(c: ConfigJson) -> Fields:
    moe = Mixture(_experts(c, 8), c.size("num_experts_per_tok", 2), c.size("intermediate_size"))
    return {**transformer_keys(c, kv_heads=8, longest=131072), **_window(c, None), "moe": moe}


def _experts(c: ConfigJson, default: int) -> int:
    """The number of experts, under any of the names that it has had."""
    keys = ("num_local_experts", "num_experts", "n_routed_experts")
    return c.size(next((key for key in keys if key in c.document), keys[0]), default)


def _qwen2(c: ConfigJson) -> Fields:
    return {**transformer_keys(c, kv_heads=32, longest=32768), **_qwen_window(c), "qkv_bias": True}


def _qwen3(c: ConfigJson) -> Fields:
    own = {**all_biases(c), "qk_norm": "head"}
    return {**transformer_keys(c, kv_heads=32, head_dim=128, longest=32768), **_qwen_window(c), **own}


def _sparse(c: ConfigJson) -> Fields:
    """Router and layers of a Qwen mixture: each decoder_sparse_step-th layer, but for those in mlp_only_layers."""
    dense = c.value("mlp_only_layers", None) or []  # a Mixture holds the number of dense layers at the start: [0, 1, 2]
    if not isinstance(dense, list) or sorted(map(str, dense)) != sorted(map(str, range(len(dense)))):
        raise c.error(f"mlp_only_layers is {shortened(dense)}: only dense layers at the start are modelled")
    return {"first_dense": len(dense), "every": c.size("decoder_sparse_step", 1), "scores": "softmax-cast"}


def _qwen2_moe(c: ConfigJson) -> Fields:
    shared = c.size("shared_expert_intermediate_size", 5632)
    width = c.size("moe_intermediate_size", 1408)
    moe = Mixture(
        _experts(c, 60), c.size("num_experts_per_tok", 4), width, shared=shared, shared_gate=True, **_sparse(c)
    )
    own = {"qkv_bias": c.flag("qkv_bias", True), "moe": moe}
    own |= _qwen_window(c) or {"masked": "unread"}
    return {**transformer_keys(c, kv_heads=16, longest=32768), **own}


def _qwen3_moe(c: ConfigJson) -> Fields:
    moe = Mixture(
        _experts(c, 128), c.size("num_experts_per_tok", 8), c.size("moe_intermediate_size", 768), **_sparse(c)
    )
    window = _window(c, 4096) if c.flag("use_sliding_window") else {}
    return {**transformer_keys(c, kv_heads=4, longest=32768), **all_biases(c), **window, "qk_norm": "head", "moe": moe}


def _gemma(c: ConfigJson, kv_heads: int = 16, longest: int = 8192) -> Fields:
    shared = transformer_keys(c, kv_heads=kv_heads, head_dim=256, longest=longest, tied=True, act="gelu_pytorch_tanh")
    own = {"activation": "gelu-tanh-glu"} if shared["activation"] == "gelu-glu" else {}  # as transformers reads it
    return {**shared, **all_biases(c), **own, "norm": "rmsnorm+1", "scaled": ("embedding",)}


def _gemma2(c: ConfigJson) -> Fields:
    caps = {
        "attention_cap": c.number("attn_logit_softcapping", 50.0),
        "logit_cap": c.number("final_logit_softcapping", 30.0),
    }
    return {**_gemma(c, kv_heads=4), **_window(c, 4096, "SF"), **caps, "placement": "both"}


def _gemma3_text(c: ConfigJson) -> Fields:
    # The published files of Gemma 3 leave out what equals the class's defaults, sizes too.
    sizes = {"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
    c = ConfigJson({**sizes, "num_attention_heads": 8, **c.document}, c.where)
    caps = {"attention_cap": c.number("attn_logit_softcapping"), "logit_cap": c.number("final_logit_softcapping")}
    pattern = "S" * (min(c.size("sliding_window_pattern", 6), MOST_LAYERS) - 1) + "F"
    own = {"placement": "both", "qk_norm": "head", "rotary_by_kind": True}
    return {**_gemma(c, kv_heads=4, longest=131072), **_window(c, 4096, pattern), **caps, **own}


def _gpt2(c: ConfigJson) -> Fields:
    c = named_as(
        without(c, "intermediate_size", "num_key_value_heads", "head_dim"),
        {
            **{"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"},
            **{"n_positions": "max_position_embeddings", "n_inner": "intermediate_size"},
        },
    )
    # n_inner is null in GPT-2's own files, which stands for four times the width.
    c.document = {**c.document, "intermediate_size": c.document.get("intermediate_size") or 4 * c.size("hidden_size")}
    act = c.activation(False, "activation_function", default="gelu_new")
    own = {
        **{**biases_everywhere(), "activation": act, "fused_qkv": True, "positions": "learned", "rotary_dim": 0},
        "holds": ("positions", "attention"),
    }
    return {**transformer_keys(c, longest=1024, tied=True, gated=False), **own, "norm": "layernorm"}


def _gpt_bigcode(c: ConfigJson) -> Fields:
    act = c.activation(False, "activation_function", default="gelu_pytorch_tanh")
    own = {"activation": act, "holds": ("positions", "attention", "mask")}
    return {**_gpt2(c), **own, **({"kv_heads": 1} if c.flag("multi_query", True) else {})}


def _gpt_neox(c: ConfigJson) -> Fields:
    shared = transformer_keys(without(c, "head_dim", "num_key_value_heads"), act="gelu", gated=False)
    turning = c.turning(
        shared["head_dim"], 0.25, "rotary_pct" if "rotary_pct" in c.document else "partial_rotary_factor"
    )
    parallel = {"parallel_norms": 2 if c.flag("use_parallel_residual", True) else 0}
    biases = {**all_biases(c, default=True), "ffn_bias": True}
    own = {"norm": "layernorm", "fused_qkv": True, "rotary_dim": turning, "turning": "halves-part", "holds": ("qkv",)}
    return {**shared, **biases, **parallel, **own}


def _phi(c: ConfigJson) -> Fields:
    if c.flag("qk_layernorm"):
        raise c.error("qk_layernorm is true: this norm of queries and keys is not modelled")
    shared = transformer_keys(c, act="gelu_new", gated=False)
    turning = {"rotary_dim": c.turning(shared["head_dim"], 0.5), "turning": "halves-part"}
    own = {"norm": "layernorm", "parallel_norms": 1, "head_bias": True}
    return {**shared, **biases_everywhere(), **own, **turning}


def _phi3(c: ConfigJson) -> Fields:
    own = {"fused_qkv": True, "fused_gate_up": True, "turning": "halves-part", "holds": ("qkv",)}
    return {**transformer_keys(c, longest=4096), **_window(c, None), **own}


def _deepseek(
    c: ConfigJson, experts: int, top_k: Any, width: int, shared: int, dense: int, scores: str, longest: int, groups: Any
) -> Fields:
    """A DeepSeek: latent attention, and a mixture with shared experts after the first dense layers."""
    each = c.size("moe_intermediate_size", width)
    moe = Mixture(
        _experts(c, experts),
        c.size("num_experts_per_tok", *top_k),
        each,
        shared=each * c.optional_size("n_shared_experts", shared),
        first_dense=c.optional_size("first_k_dense_replace", dense),
        scores=scores,
        **(_groups(c, *groups) if groups else {}),
    )
    rope = c.size("qk_rope_head_dim", 64)
    mla = Latent(c.size("kv_lora_rank", 512), rope, c.optional_size("q_lora_rank", 1536))
    c.document = {**c.document, "head_dim": c.size("qk_nope_head_dim", 128) + rope}
    own = {"value_dim": c.size("v_head_dim", 128), "rotary_dim": rope, "moe": moe, "mla": mla}
    return {**transformer_keys(c, longest=longest), **all_biases(c), "ffn_bias": c.flag("mlp_bias"), **own}


def _groups(c: ConfigJson, groups: int | None = 1, best: int | None = 1) -> Fields:
    """The groups of experts, of which a router first chooses the best few; the arguments are the class's defaults."""
    found = {"groups": c.size("n_group", groups), "best_groups": c.size("topk_group", best)}
    if found["best_groups"] > found["groups"]:
        raise c.error(f"topk_group {found['best_groups']} of n_group {found['groups']}: expected at most n_group")
    return found


def _deepseek_v2(c: ConfigJson) -> Fields:
    limited = c.value("topk_method", "greedy") == "group_limited_greedy"
    return _deepseek(c, 64, (), 1407, 2, 0, "softmax-as-is", 2048, (None, None) if limited else ())


def _deepseek_v3(c: ConfigJson) -> Fields:
    return {**_deepseek(c, 256, (8,), 2048, 1, 3, "sigmoid", 4096, (8, 4)), "ffn_bias": False}


def _olmo(c: ConfigJson) -> Fields:
    return {**transformer_keys(c), **all_biases(c), "norm": "layernorm-no-weight", "turning": "halves-by-fp32"}


def _olmo2(c: ConfigJson) -> Fields:
    return {**_olmo(c), "norm": "rmsnorm-fp32", "placement": "output", "qk_norm": "all"}


def _olmo3(c: ConfigJson) -> Fields:
    return {**_olmo2(c), **_window(c, 4096, "SSSF"), "rotary_by_kind": True}


def _olmoe(c: ConfigJson) -> Fields:
    width = c.size("intermediate_size")
    moe = Mixture(_experts(c, 64), c.size("num_experts_per_tok", 8), width, scores="softmax-cast")
    return {**transformer_keys(c, longest=4096), **all_biases(c), "qk_norm": "all", "moe": moe}


def _falcon(c: ConfigJson) -> Fields:
    c = named_as(c, {"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"})
    new, parallel = c.flag("new_decoder_architecture"), c.flag("parallel_attn", True)
    heads = c.size("num_attention_heads")
    # The new architecture (40B on) has grouped heads; before it there was one for all, or one for each.
    few = c.size("num_kv_heads", heads) if new else 1 if c.flag("multi_query", True) else heads
    ffn = c.document.get("ffn_hidden_size") or 4 * c.size("hidden_size")
    c.document = {**c.document, "num_key_value_heads": few, "intermediate_size": ffn}
    shared = transformer_keys(without(c, "head_dim"), tied=True, act="gelu", gated=False)
    if c.flag("alibi"):
        raise c.error("alibi is true: numbers that are added to scores by distance are not modelled but for T5's")
    bias, both = c.flag("bias"), c.size("num_ln_in_parallel_attn", 2 if new else 1)
    return {
        **shared,
        **{"qkv_bias": bias, "output_bias": bias, "ffn_bias": bias, "fused_qkv": True, "norm": "layernorm"},
        "activation": c.activation(False, "activation", default="gelu"),
        "parallel_norms": both if parallel else 0,
        "masked": True,
        "sharing": "copied" if new else "broadcast" if few == 1 else "grouped",
        "holds": ("norm", "attention", "qkv"),
        # In parallel, what is dropped is the sum of both; else attention by the probability of its weights.
        **dropped_blocks(c, **({} if parallel else {"attention": "attention_dropout"}), feed_forward="hidden_dropout"),
    }


def _gpt_oss(c: ConfigJson) -> Fields:
    width = c.size("intermediate_size")
    moe = Mixture(_experts(c, 128), c.size("num_experts_per_tok", 4), width, scores="softmax-of-top-k", bias=True)
    shared = transformer_keys(c, kv_heads=8, head_dim=64, longest=131072)
    own = {"activation": "clamped-swiglu", "norm": "rmsnorm-fp32", "sinks": True, "moe": moe}
    return {**shared, **all_biases(c, default=True), **_window(c, 128, "SF"), **own}


def _glm(c: ConfigJson) -> Fields:
    shared = transformer_keys(c, kv_heads=2, head_dim=128, longest=131072)
    own = {"qkv_bias": c.flag("attention_bias", True), "fused_gate_up": True}
    return {**shared, **own, "rotary_dim": c.turning(shared["head_dim"], 0.5)}


def _glm4(c: ConfigJson) -> Fields:
    return {**_glm(c), "placement": "both"}


def _glm4_moe(c: ConfigJson) -> Fields:
    width = c.size("moe_intermediate_size", 1408)
    moe = Mixture(
        _experts(c, 128),
        c.size("num_experts_per_tok", 8),
        width,
        shared=width * c.optional_size("n_shared_experts", 1),
        first_dense=c.optional_size("first_k_dense_replace", 1),
        scores="sigmoid",
        **_groups(c),
    )
    shared = transformer_keys(c, kv_heads=8, longest=131072)
    own = {"qkv_bias": c.flag("attention_bias"), "qk_norm": "head" if c.flag("use_qk_norm") else "none", "moe": moe}
    return {**shared, **own, "rotary_dim": c.turning(shared["head_dim"], 0.5)}


def _granite(c: ConfigJson) -> Fields:
    keys = {"embedding_multiplier": "embedding", "residual_multiplier": "residual", "logits_scaling": "logits"}
    return {**_llama(c), "scaled": tuple(name for key, name in keys.items() if c.number(key, 1.0) != 1)}


def _no_rotary(c: ConfigJson) -> Fields:
    """Which layers have no rotary positions: each no_rope_layer_interval-th, or those with 0 in no_rope_layers."""
    every = c.size("no_rope_layer_interval", 4)
    given = c.value("no_rope_layers", None)
    if given and given != [int((layer + 1) % every != 0) for layer in range(len(given))]:
        raise c.error(f"no_rope_layers is {shortened(given)}: only a regular interval is modelled")
    return {"no_rotary_every": every}


def _smollm3(c: ConfigJson) -> Fields:
    shared = transformer_keys(c, kv_heads=4, longest=32768, tied=True)
    return {**shared, **all_biases(c), "ffn_bias": c.flag("mlp_bias"), **_no_rotary(c)}


def _llama4_text(c: ConfigJson) -> Fields:
    width, every = c.size("intermediate_size", 8192), c.size("interleave_moe_layer_step", 1)
    moe = Mixture(
        *(_experts(c, 16), c.size("num_experts_per_tok", 1), width), shared=width, every=every, scores="sigmoid-before"
    )
    # intermediate_size is an expert's; dense layers are wider, intermediate_size_mlp.
    chunk, no_rotary = c.optional_size("attention_chunk_size", 8192), _no_rotary(c)
    pattern = c.pattern("C" * (no_rotary["no_rotary_every"] - 1) + "F" if chunk else "F")
    shared = transformer_keys(c, kv_heads=8, head_dim=128, longest=131072)
    own = {
        "ffn": c.size("intermediate_size_mlp", 16384),
        "qk_norm": "l2" if c.flag("use_qk_norm", True) else "none",
        "moe": moe,
    }
    return {
        **shared,
        **all_biases(c),
        **own,
        **no_rotary,
        "pattern": pattern,
        "window": chunk if "C" in pattern else 0,
    }


def _starcoder2(c: ConfigJson) -> Fields:
    shared = transformer_keys(c, kv_heads=2, longest=4096, tied=True, act="gelu_pytorch_tanh", gated=False)
    biases = {**all_biases(c, "use_bias", True), "ffn_bias": c.flag("use_bias", True)}
    return {**shared, **biases, **_window(c, None), "norm": "layernorm"}


def _cohere(c: ConfigJson) -> Fields:
    if c.flag("use_qk_norm"):
        raise c.error("use_qk_norm is true: Cohere's norm of queries and keys is not modelled")
    own = {"norm": "layernorm-no-bias", "parallel_norms": 1, "scaled": ("logits",), "turning": "neighbours"}
    return {**transformer_keys(c, longest=8192, tied=True), **all_biases(c), **own}


def _cohere2(c: ConfigJson) -> Fields:
    every = min(c.size("sliding_window_pattern", 4), MOST_LAYERS)
    return {**_cohere(c), **_window(c, 4096, "S" * (every - 1) + "F")}


def _stablelm(c: ConfigJson) -> Fields:
    if c.flag("qk_layernorm"):
        raise c.error("qk_layernorm is true: StableLM's norm of queries and keys is not modelled")
    shared = transformer_keys(without(c, "head_dim"), kv_heads=32, longest=4096)
    own = {
        "qkv_bias": c.flag("use_qkv_bias"),
        "norm": "layernorm",
        "dropped": ("feed-forward",),
        "holds": ("norm", "attention"),
        "parallel_norms": 1 if c.flag("use_parallel_residual") else 0,
        "turning": "halves-part",
    }
    return {**shared, **own, "rotary_dim": c.turning(shared["head_dim"], 0.25)}


def _seed_oss(c: ConfigJson) -> Fields:
    shared = transformer_keys(c, kv_heads=8, head_dim=128, longest=524288)
    biases = {"qkv_bias": c.flag("attention_bias", True), "output_bias": c.flag("attention_out_bias")}
    return {**shared, **biases, "ffn_bias": c.flag("mlp_bias")}


FAMILIES: dict[str, Family] = {
    **{"llama": _llama, "mistral": _mistral, "ministral": _mistral, "ministral3": _ministral3, "mixtral": _mixtral},
    **{"qwen2": _qwen2, "qwen3": _qwen3, "qwen2_moe": _qwen2_moe, "qwen3_moe": _qwen3_moe},
    **{"gemma": _gemma, "gemma2": _gemma2, "gemma3_text": _gemma3_text},
    **{"gpt2": _gpt2, "gpt_bigcode": _gpt_bigcode, "gpt_neox": _gpt_neox, "falcon": _falcon, "gpt_oss": _gpt_oss},
    **{"phi": _phi, "phi3": _phi3, "granite": _granite, "smollm3": _smollm3, "starcoder2": _starcoder2},
    **{"deepseek_v2": _deepseek_v2, "deepseek_v3": _deepseek_v3, "kimi_k2": _deepseek_v3},
    **{"olmo": _olmo, "olmo2": _olmo2, "olmo3": _olmo3, "olmoe": _olmoe},
    **{"glm": _glm, "glm4": _glm4, "glm4_moe": _glm4_moe, "llama4_text": _llama4_text},
    **{"bert": bert, "roberta": roberta, "xlm-roberta": roberta, "camembert": roberta, "modernbert": modernbert},
    **{"vit": vit, "t5": t5, "mt5": t5, "whisper": whisper},
    **{"cohere": _cohere, "cohere2": _cohere2, "stablelm": _stablelm, "seed_oss": _seed_oss},
}
_OTHERS = {
    **dict.fromkeys(("distilbert", "deberta-v2", "electra", "albert"), "an encoder of another kind"),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus"), "an encoder with a decoder of another kind"),
    **dict.fromkeys(("clip", "siglip", "dinov2"), "a model of images"),
    **dict.fromkeys(("mamba", "mamba2", "rwkv", "recurrent_gemma"), "a model with recurrent layers"),
    **dict.fromkeys(("jamba", "bamba", "qwen3_next", "falcon_h1", "nemotron_h"), "a model with recurrent layers"),
}


def architecture_of(document: Any, where: str, name: str = "") -> Architecture:
    """The architecture of a config.json, of its text part where it has several. Raises UsageError, which names `where`.

    Args:
        document: the parsed JSON.
        where: the file's name in errors.
        name: of the model; that of the file's `_name_or_path`, or its type, where empty.
    """
    if not isinstance(document, dict):
        raise UsageError(f"{where}: expected a table of keys such as hidden_size, given {shortened(document)}")
    config = ConfigJson(_text_part(document), where)
    family = _family(config)
    fields = {**dropouts(config), **family(config)}
    arch = Architecture(name or _name(document), **fields)
    # Counting parameters walks the layers: a model of too many is refused without it.
    if arch.layers <= MOST_LAYERS:
        check_architecture(arch, where, sum(parameters(arch).values()))
    check_architecture(arch, where, 0)
    return arch


def _text_part(document: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model: `text_config` in one of text and images."""
    inner = document.get("text_config")
    if not isinstance(inner, dict):
        return document
    shared = {key: document[key] for key in ("tie_word_embeddings", "vocab_size") if key in document}
    return {"model_type": f"{document.get('model_type')}_text", **shared, **inner}


def _family(config: ConfigJson) -> Family:
    kind = config.value("model_type")
    found = FAMILIES.get(kind) if isinstance(kind, str) else None
    if found is not None:
        return found
    if isinstance(kind, str) and kind in _OTHERS:
        raise config.error(
            f"model_type {kind!r} is {_OTHERS[kind]}: decoders, encoders like BERT and ViT, T5 and Whisper are modelled"
        )
    raise config.error(str(unknown("model_type", kind, FAMILIES)))


def _name(document: dict[str, Any]) -> str:
    given = document.get("_name_or_path")
    return given if isinstance(given, str) and given.isprintable() and given else str(document.get("model_type"))

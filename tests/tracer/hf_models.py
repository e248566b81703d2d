"""Small models of Hugging Face's classes, made from their configurations: nothing is downloaded.

Each maker gives a model and a function of tokens that returns its loss, as a training script calls it.
"""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from torch import Tensor, nn

B, N, VOCABULARY = 2, 24, 96
Made = tuple[nn.Module, Callable[[Tensor], Tensor]]
Maker = Callable[[], Made]

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
TEXT: dict[str, Any] = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "use_cache": False}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}


def made(model: str, config: str, **sizes: Any) -> Any:
    """A model of a class, in training mode."""
    settings = getattr(transformers, config)(**sizes)
    return getattr(transformers, model)(settings).train()


def text(model: str, config: str = "", **sizes: Any) -> Maker:
    """A language model that is given its own inputs as labels."""
    config = config or model.replace("ForCausalLM", "Config").replace("ForMaskedLM", "Config")

    def maker() -> Made:
        built = made(model, config, **{**TEXT, **sizes})
        return built, lambda tokens: built(input_ids=tokens, labels=tokens).loss

    return maker


def checkpointed(maker: Maker, reentrant: bool) -> Maker:
    def again() -> Made:
        built: Any
        built, loss = maker()
        built.gradient_checkpointing_enable({"use_reentrant": reentrant, "preserve_rng_state": False})
        if reentrant:
            built.enable_input_require_grads()
        return built, loss

    return again


def t5() -> Made:
    built = made(
        "T5ForConditionalGeneration", "T5Config", vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=1,
        num_heads=4, decoder_start_token_id=0, use_cache=False,
    )  # fmt: skip
    return built, lambda tokens: built(input_ids=tokens, labels=tokens).loss


def whisper() -> Made:
    built = made(
        "WhisperForConditionalGeneration", "WhisperConfig", vocab_size=VOCABULARY, d_model=32, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        num_mel_bins=8, max_source_positions=N, max_target_positions=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, use_cache=False,
    )  # fmt: skip
    return built, lambda tokens: built(input_features=torch.zeros(B, 8, 2 * N), labels=tokens).loss


def vit() -> Made:
    """Deep enough that its peak is not in the convolution, whose scratch depends on the CPU's libraries."""
    built = made("ViTForImageClassification", "ViTConfig", **{**IMAGE, "num_hidden_layers": 4}, num_channels=1)
    image, label = torch.zeros(B, 1, 32, 32), torch.zeros(B, dtype=torch.int64)
    return built, lambda _: built(pixel_values=image, labels=label).loss


def clip() -> Made:
    built = made(
        "CLIPModel", "CLIPConfig", projection_dim=16, vision_config=IMAGE,
        text_config={**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "eos_token_id": 2},
    )  # fmt: skip
    return built, lambda tokens: built(input_ids=tokens, pixel_values=torch.zeros(B, 3, 32, 32), return_loss=True).loss


LLAMA = text("LlamaForCausalLM", num_key_value_heads=2)  # two layers; models whose layers are alike have one
ALONE = {"num_hidden_layers": 1}
MODELS: dict[str, Maker] = {
    "llama": LLAMA,
    "llama, checkpoints": checkpointed(LLAMA, False),
    "llama, reentrant checkpoints": checkpointed(LLAMA, True),
    "qwen3": text("Qwen3ForCausalLM", **GROUPED, **ALONE),
    "gemma3": text("Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, sliding_window=8),
    "gpt-neox": text("GPTNeoXForCausalLM", **ALONE),
    "mistral": text("MistralForCausalLM", **GROUPED, **ALONE),
    "gemma2": text("Gemma2ForCausalLM", **GROUPED),
    "gpt2": text("GPT2LMHeadModel", "GPT2Config", n_embd=32, n_layer=1, n_head=4, n_positions=64, **ALONE),
    "falcon": text("FalconForCausalLM", **ALONE),
    "mixtral": text("MixtralForCausalLM", **GROUPED, **EXPERTS, **ALONE),
    "qwen3 moe": text("Qwen3MoeForCausalLM", **GROUPED, **EXPERTS, **ALONE),
    "deepseek v3": text("DeepseekV3ForCausalLM", **EXPERTS, **LATENT),
    "bert": text("BertForMaskedLM", **ALONE),
    "t5": t5,
    "whisper": whisper,
    "vit": vit,
    "clip": clip,
}

"""ModernBERT, T5 and Whisper: the events of real runs, the bytes of Hugging Face's classes, and one clear sentence."""

from collections import Counter
from typing import Any

import pytest
from encoder_decoders import modernbert, t5, whisper
from training import H, beyond_numbers, small_case, two_steps

import memmodel
from memmodel import UsageError
from memmodel.models.architecture import parameters
from memmodel.models.choices import model_case
from memmodel.models.families import architecture_of
from memmodel.models.flops import forward_flops, matrix_parameters
from torch_events import in_order, real_events, recorded_events

WHISPER = {
    **{"model_type": "whisper", "vocab_size": 2048, "d_model": 384, "encoder_attention_heads": 6},
    **{"decoder_attention_heads": 6, "encoder_layers": 2, "decoder_layers": 1, "max_source_positions": 100},
    **{"encoder_ffn_dim": 1536, "decoder_ffn_dim": 1024, "pad_token_id": 0},
}
T5 = {
    **{"model_type": "t5", "vocab_size": 2048, "d_model": 256, "d_kv": 32, "d_ff": 1024, "num_layers": 2},
    **{"num_heads": 8, "decoder_start_token_id": 0},
}
MODERNBERT = {
    **{"model_type": "modernbert", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 384},
    **{"num_hidden_layers": 4, "num_attention_heads": 8, "pad_token_id": 0},
}


@pytest.mark.parametrize(
    "choices",
    [
        {"attention": "sdpa", "dtype": "bf16"},
        {"attention": "eager", "dropout": 0.1, "attention_dropout": 0.1, "embedding_dropout": 0.1},
        {"checkpoint": "block", "microbatches": 2},
        {"autocast": True, "dtype": "bf16", "loss": "native"},
        {"loss": "fused", "in_backward": True},
        {"checkpoint": "attention", "optimizer": "muon", "clip": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["modernbert", "t5"])
def test_training(model: str, choices: dict[str, Any]) -> None:
    arch, given = {"modernbert": (modernbert(), {}), "t5": (t5(), {"source": 7})}[model]
    body = two_steps(small_case(arch, **given, **choices))
    assert in_order(recorded_events(body)) == in_order(real_events(body))


@pytest.mark.parametrize("model", [modernbert, t5, whisper])
def test_a_prompt(model: Any) -> None:
    body = two_steps(small_case(model(), phase="prefill"))
    assert beyond_numbers(recorded_events(body)) == beyond_numbers(real_events(body))


@pytest.mark.parametrize("model", [t5, whisper])
def test_a_token(model: Any) -> None:
    body = two_steps(small_case(model(), phase="decode"))
    assert beyond_numbers(recorded_events(body)) == beyond_numbers(real_events(body))


@pytest.mark.parametrize(
    "choices", [{"attention": "eager", "dropout": 0.1}, {"checkpoint": "block"}, {"loss": "fused"}], ids=str
)
def test_training_on_sounds(choices: dict[str, Any]) -> None:
    body = two_steps(small_case(whisper(), **choices))
    both = real_events(body), recorded_events(body)
    counts = [Counter((event.kind, event.nbytes) for event in events) for events in both]
    # oneDNN's gelu_backward copies operands with unlike strides: two of (b, hidden, m) in fp32, in each of two steps.
    copied = 4 * 2 * H * 9
    assert counts[0] - counts[1] == Counter({("alloc", copied): 4, ("free", copied): 4})
    assert not counts[1] - counts[0]


@pytest.mark.slow
@pytest.mark.parametrize(("config", "setting"), [(MODERNBERT, {}), (T5, {"source": 512}), (WHISPER, {})])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hugging_faces_classes(config: dict[str, Any], setting: dict[str, Any], attention: str) -> None:
    pytest.importorskip("transformers")
    from memmodel.tracer.against import against_hugging_face

    bare = dict.fromkeys(("dropout", "attention_dropout", "embedding_dropout"), 0.0)
    report = memmodel.model(config=config, gpu="H100", batch=4, seq=256, attention=attention, **setting, **bare)
    found = against_hugging_face(report.prediction.case, config, report.prediction.memory, report.gpu)
    assert found.ours == pytest.approx(found.theirs, rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sizes", [(128, 8, 256), (64, 4, 128)], ids=str)
def test_t5s_class_recomputes_what_positions_add(sizes: tuple[int, int, int], attention: str) -> None:
    """Its first layer makes it; at such widths that decides where the peak is."""
    pytest.importorskip("transformers")
    from memmodel.tracer.against import against_hugging_face

    width, heads, ffn = sizes
    config = {**T5, "d_model": width, "num_heads": heads, "d_kv": 16, "d_ff": ffn}
    bare = dict.fromkeys(("dropout", "attention_dropout", "embedding_dropout"), 0.0)
    chosen = {"checkpoint": "block", "attention": attention, **bare}
    report = memmodel.model(config=config, gpu="H100", batch=4, seq=256, **chosen)
    found = against_hugging_face(report.prediction.case, config, report.prediction.memory, report.gpu)
    assert found.ours == found.theirs


@pytest.mark.slow
@pytest.mark.parametrize(("config", "seq"), [(MODERNBERT, 256), (T5, 64), (WHISPER, 256)])
def test_prompts_of_hugging_faces_classes(config: dict[str, Any], seq: int) -> None:
    pytest.importorskip("transformers")
    from memmodel.tracer.against import against_hugging_face

    report = memmodel.model(config=config, gpu="H100", batch=16, seq=seq, phase="prefill")
    found = against_hugging_face(report.prediction.case, config, report.prediction.memory, report.gpu)
    assert found.ours == pytest.approx(found.theirs, rel=0.001)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (MODERNBERT, "ModernBertForMaskedLM"),
        (T5 | {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 1}, "T5ForConditionalGeneration"),
        (WHISPER, "WhisperForConditionalGeneration"),
    ],
)
def test_parameters(config: dict[str, Any], kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    given = {"pad_token_id": 0, **config}
    with torch.device("meta"):
        model = getattr(transformers, kind)(transformers.AutoConfig.for_model(**given))
    count = sum({id(p): p.numel() for p in model.parameters()}.values())
    assert sum(parameters(architecture_of(config, "config.json")).values()) == count


def test_flops_of_an_encoder_with_a_decoder() -> None:
    """Two FLOP for each weight of a matrix and token, and four for each score and channel of a head."""
    arch = architecture_of(T5, "config.json")
    n, m, hidden, heads, width, ffn = 64, 128, 256, 8, 32, 1024
    inner = heads * width
    encoder = 2 * m * (4 * hidden * inner + 2 * hidden * ffn) + 4 * m * m * inner
    decoder = 2 * n * (6 * hidden * inner + 2 * hidden * ffn) + 2 * m * 2 * hidden * inner
    scores = 4 * inner * (n * (n + 1) // 2 + n * m)
    outside = 2 * n * hidden * 2048 + 2 * hidden * (n * (2 * 3 + 1) + m * (2 * 2 + 1))  # the head; norms' weights
    assert forward_flops(arch, 3, n, n, m, m) == 3 * (2 * (encoder + decoder + scores) + outside)


def test_a_window_on_both_sides() -> None:
    arch = architecture_of(MODERNBERT | {"local_attention": 4, "num_hidden_layers": 2}, "config.json")
    n = 10
    pairs = sum(abs(i - j) <= 2 for i in range(n) for j in range(n)) + n * n  # a layer with the window, one without
    assert forward_flops(arch, 1, n, n) - 2 * n * matrix_parameters(arch) == 4 * 8 * 32 * pairs


@pytest.mark.parametrize(
    ("config", "setting", "message"),
    [
        (T5, {"quantize": "int8", "phase": "decode"}, "quantize with t5"),
        (T5, {"gpus": 8}, "several GPUs with t5"),
        (T5, {"attention": "flash-attn"}, "adds numbers for its positions to all scores, take sdpa or eager"),
        (WHISPER, {"source": 50}, "whisper makes 100 tokens of every sound, padded to 200 moments: leave it out"),
        (MODERNBERT, {"source": 64}, "modernbert has no encoder before its decoder"),
        (WHISPER, {"seq": 449}, "learned positions for 448 tokens"),
    ],
)
def test_wrong_settings(config: dict[str, Any], setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_case(architecture_of(config, "config.json"), **setting)


def test_an_encoder_that_reads_as_many_tokens_has_the_decoders_letter() -> None:
    same, unsaid = (memmodel.model(config=T5, gpu="H100", batch=2, seq=64, source=source) for source in (64, None))
    assert same.prediction.formulas == unsaid.prediction.formulas

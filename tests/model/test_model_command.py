"""A whole model's step from the command line and from Python: groups, formulas, and clear errors."""

import json
from typing import Any

import pytest

import memmodel
from memmodel import UsageError
from memmodel.base.units import bytes_text
from memmodel.events.groups import GROUPS, kind_of
from memmodel.models.architecture import layer_weights
from memmodel.models.catalogue import listed
from memmodel.models.kv_cache import cache_bytes
from memmodel.models.letters import LETTERS
from memmodel.models.quantization import packed_bytes, weight_bytes
from memmodel.models.results import ModelPrediction

TINY = {
    **{"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 192},
    **{"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
}


def prediction(**setting: Any) -> ModelPrediction:
    return memmodel.model(config=TINY, gpu="H100", batch=2, seq=96, **setting).prediction


def value(formula: str, numbers: dict[str, int]) -> int:
    """A formula at some sizes."""
    text = formula.replace("·", "*").replace("²", "**2").replace("³", "**3").replace(",", "")
    return int(eval(text, {}, numbers))


def test_groups_add_up_to_the_peak_and_so_do_their_formulas() -> None:
    found = prediction()
    groups = {group: nbytes for group, nbytes in found.memory.groups.items() if group != "workspace"}
    assert sum(groups.values()) == found.memory.live_peak_bytes
    assert {kind_of(group) for group in found.memory.groups} <= set(GROUPS)
    arch = found.case.arch
    numbers = {letter: getattr(arch, name) for name, letter in LETTERS.items() if hasattr(arch, name)}
    numbers |= {"b": 2, "n": 96, "L": 3}
    assert {group: value(formula, numbers) for group, formula in found.formulas.items()} == groups


def test_weights_and_states_are_counted_to_the_byte() -> None:
    found = prediction(dtype="bf16", optimizer="adamw")
    count = sum(found.parameters.values())
    states = found.memory.groups["optimizer"]
    weights = sum(n for group, n in found.memory.groups.items() if group.startswith("parameters "))
    assert (weights, states) == (2 * count, 4 * count)


def test_a_file_its_folder_and_its_content_are_the_same_model(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    peaks = {
        memmodel.model(config=given, gpu="H100", seq=96).prediction.memory.live_peak_bytes
        for given in (TINY, tmp_path, str(tmp_path / "config.json"))
    }
    assert len(peaks) == 1


def test_changes_say_what_they_give() -> None:
    report = memmodel.model("llama-3.2-1b", "H100", batch=2, seq=1024)
    assert "recompute each layer: --checkpoint block" in [m.change for m in report.mitigations]
    before = report.prediction.memory.allocated_peak_bytes
    for change in report.mitigations:
        assert before - change.allocated_peak_bytes == change.less_bytes


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "--like and --config: neither given"),
    ({"like": "gpt2", "config": TINY}, "--like and --config: both given"),
    ({"like": "llama-9"}, "unknown model 'llama-9': did you mean"),
    ({"like": "gpt2", "seq": 2048}, "gpt2 has learned positions for 1024 tokens"),
    ({"like": "gpt2", "seq": 0}, "seq 0: expected a whole number of at least 1"),
    ({"like": "gpt2", "seq": 64, "phase": "training"}, "unknown phase 'training'"),
    ({"like": "gpt2", "seq": 64, "optimizer": "adamww"}, "unknown optimizer 'adamww'"),
    ({"like": "gpt2", "seq": 64, "dropout": 1.5}, "dropout 1.5: expected a probability"),
    ({"like": "gpt2", "seq": 64, "quantize": "awq"}, "quantize awq in training: packed weights do not learn"),
    ({"like": "gpt2", "seq": 64, "phase": "decode", "quantize": "int3"}, "unknown format of weights 'int3'"),
    ({"like": "gpt2", "seq": 64, "phase": "decode", "kv_cache": "fp8-mla"}, "gpt2 has no latent attention"),
    ({"like": "llama-3-8b", "lora": 8192}, "lora rank 8192: the layer q is only 4096 wide"),
    ({"like": "llama-3-8b", "qlora": True}, "--qlora without adapters: give their rank too"),
    ({"like": "llama-3-8b", "lora": 8, "lora_targets": "q_proj"}, "unknown linear layer 'q_proj'"),
    ({"like": "llama-3-8b", "lora": 8, "lora_targets": 0.5}, "lora-targets 0.5: expected names of linear layers"),
    ({"like": "llama-3-8b", "lora": 8, "lora_targets": ["q", 1]}, "expected names of linear layers such as q,v"),
    ({"config": []}, "config: expected a table of keys"),
    ({"config": "/nowhere"}, "cannot read /nowhere"),
    ({"config": {"model_type": "llama"}}, "config: there is no hidden_size"),
    ({"like": "deepseek-v3", "seq": 64, "attention": "flash"}, "flash with value dim 128 and head dim 192"),
    ({"like": "gpt2", "seq": 64, "sequence": 4}, "unknown setting 'sequence'"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_use_is_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        memmodel.model(**given)


def test_weights_and_cache_of_serving_are_counted_to_the_byte() -> None:
    report = memmodel.model("llama-3-8b", "H100", phase="decode", batch=4, seq=8192)
    assert report.serving is not None
    # 2 bytes for each of 8 heads of 128, keys and values, in 32 layers.
    assert report.serving.token_bytes == 2 * 8 * 128 * 2 * 32
    assert report.prediction.memory.groups["kv_cache"] == 4 * 8192 * report.serving.token_bytes
    assert report.serving.weight_bytes == 2 * 8_030_261_248


def test_the_longest_context_fits_and_one_token_more_does_not() -> None:
    setting = {"phase": "decode", "batch": 2, "kv_cache": "fp8"}
    serving = memmodel.model("llama-3.2-1b", "L4", seq=4096, **setting).serving
    assert serving is not None
    assert serving.longest_context is not None
    for more, fits in ((0, True), (1, False)):
        at = memmodel.model("llama-3.2-1b", "L4", seq=serving.longest_context + more, **setting)
        assert at.prediction.memory.fits is fits


# A matrix of 4096 x 14336 by hand: AWQ has half a byte a weight, and for each group of 128 rows of a column two bytes
# of scale and half a byte of zero point; MXFP4 a byte for 32 weights; NF4 four bytes for 64.
@pytest.mark.parametrize(
    ("quantize", "bits"),
    [("fp8", 8 + 32 / 128**2), ("awq", 4 + 20 / 128), ("gptq8", 8 + 24 / 128 + 32 / 4096), ("mxfp4", 4 + 8 / 32),
     ("nvfp4", 4 + 8 / 16), ("nf4", 4 + 32 / 64), ("nf4-double", 4 + 8 / 64 + 32 / 64 / 256)],
)  # fmt: skip
def test_bits_of_a_format(quantize: str, bits: float) -> None:
    arch = listed("llama-3-8b").architecture
    (down,) = [w for w in layer_weights(arch, arch.kind(0)) if w.name == "ffn.down.weight"]
    assert 8 * packed_bytes(down, arch, quantize, 2) / down.numel == pytest.approx(bits, rel=1e-12)


def test_a_cache_is_as_long_as_its_layers_look() -> None:
    gemma, deepseek = listed("gemma-2-2b").architecture, listed("deepseek-v3").architecture
    # 13 of 26 layers see the last 4096 tokens; 4 heads of 256, keys and values.
    assert cache_bytes(gemma, 10_000) == 13 * (4096 + 10_000) * 2 * 4 * 256 * 2
    # One latent of 512 and one rotary key of 64 for all heads.
    assert cache_bytes(deepseek, 1000) == 61 * 1000 * (512 + 64) * 2
    assert cache_bytes(listed("llama-3-70b").architecture, 131_072) == 40 * 2**30


def test_gpt_oss_has_the_size_of_its_card() -> None:
    sizes = [sum(weight_bytes(listed(f"gpt-oss-{size}").architecture, "mxfp4").values()) for size in ("20b", "120b")]
    assert [round(size / 2**30, 1) for size in sizes] == [12.8, 60.8]


def test_a_step_is_all_of_its_micro_batches() -> None:
    """Products of k micro-batches are k times those of one; the update runs once."""
    one, four = (memmodel.model("gpt2", "A100", seq=128, microbatches=count).predictions[0] for count in (1, 4))
    assert four.work.matmul == 4 * one.work.matmul
    assert one.time is not None
    assert four.time is not None
    assert four.time.phases["optimizer"] == one.time.phases["optimizer"]
    assert four.time.phases["forward"] == pytest.approx(4 * one.time.phases["forward"])


def test_the_first_step_fits_where_later_ones_do_not() -> None:
    """AdamW in bf16 makes two states of two bytes a parameter in its first update, behind forward and backward."""
    report = memmodel.model("llama-3.2-3b", "A100-40GB-SXM", batch=1, seq=6144)
    memory, count = report.prediction.memory, sum(report.prediction.parameters.values())
    first = max(memory.phase_peaks["backward"] - 4 * count, memory.phase_peaks["optimizer"]) + memory.workspace_bytes
    assert memory.fits is False
    assert f"the first step allocates {bytes_text(first)} and fits" in " ".join(report.prediction.notes)

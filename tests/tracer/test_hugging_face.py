"""`memmodel trace --hf`: a step of a model that is built from its configuration."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("transformers")

from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.events.groups import by_kind
from memmodel.tracer.hugging_face import hf_step

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore")]  # of the library's own code

HIDDEN, INNER, LAYERS, VOCABULARY, KV = 64, 160, 2, 512, 32
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
    "torch_dtype": "bfloat16", "max_position_embeddings": 256,
}  # fmt: skip
LAYER = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * INNER + 2 * HIDDEN
PARAMETERS = 2 * VOCABULARY * HIDDEN + LAYERS * LAYER + HIDDEN
FREQUENCIES = 2 * 4 * 8  # bytes: of rotary positions, in use and as they were first


def written(folder: Path, **changes: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({key: value for key, value in {**CONFIG, **changes}.items() if value is not None}))
    return str(path)


def test_a_training_step(tmp_path: Path) -> None:
    arguments = ["trace", "--hf", written(tmp_path), "--train", "--optimizer", "adamw", "--gpu", "RTX 4090", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--at", "B=1,N=16", "--no-formulas"])
    assert result.exit_code == 0, result.output
    memory, weights = json.loads(result.stdout)["memory"], 2 * PARAMETERS
    kinds = by_kind(memory["groups"])
    assert kinds["parameters"] == weights + FREQUENCIES
    assert kinds["gradients"] == weights
    assert kinds["optimizer"] == 2 * weights
    assert memory["live_peak_bytes"] == sum(kinds.values())
    assert "weights in bfloat16" in result.stdout


def test_a_prompt_fills_the_cache(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["trace", "--hf", written(tmp_path), "--at", "B=2,N=16", "--json"])
    assert result.exit_code == 0, result.output
    groups = json.loads(result.stdout)["memory"]["groups"]
    assert groups["kv_cache"] == LAYERS * 2 * 2 * 2 * KV * 16  # keys and values of each layer, 2 bytes, 2 sequences


def test_a_class_with_its_defaults() -> None:
    built = hf_step("ViTForImageClassification", train=True, optimizer="adamw-fused")
    assert built.inputs == {"pixel_values": "B,3,224,224:float32:nograd"}
    assert built.step == "own"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 7}, r"refuses it.*hidden size \(64\) is not a multiple"),
        ({"model_type": "lama"}, "unknown model_type 'lama'.*did you mean llama"),
        ({"model_type": None}, "it has no model_type"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "mine.py--Mine"}}, "code of the model's own"),
    ],
)
def test_configurations_that_cannot_be_built(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        hf_step(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("meta-llama/Llama-3.1-8B", "there is no such file, and models are not fetched"),
        ("AutoModelForCausalLM", "not a model with a configuration"),
        ("LlamaForCausalML", "unknown class of transformers.*did you mean LlamaForCausalLM"),
        ("Wav2Vec2ForCTC", "Wav2Vec2ForCTC takes input_values, whose sizes its configuration does not say"),
    ],
)
def test_sources_that_are_no_model(source: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        hf_step(source)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizer", "adamw"], "nothing to trace"),
        (["--hf", "LlamaForCausalLM", "--step"], "take --train, or neither"),
        (["f.py:f", "--hf", "LlamaForCausalLM"], "one of them"),
        (["f.py:f", "--checkpointing"], "goes with --hf alone"),
        (["--hf", "LlamaForCausalLM", "--optimizer", "adamw"], "add --train"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["trace", *arguments])
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)

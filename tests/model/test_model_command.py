"""A whole model's step from the command line and from Python: groups, formulas, and clear errors."""

import json
from typing import Any

import pytest

import memmodel
from memmodel import UsageError
from memmodel.groups import GROUPS, kind_of
from memmodel.model.letters import LETTERS
from memmodel.model.results import ModelPrediction

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
    ({"like": "t5-small"}, "t5-small is not a decoder"),
    ({"like": "gpt2", "seq": 2048}, "gpt2 has learned positions for 1024 tokens"),
    ({"like": "gpt2", "seq": 0}, "seq 0: expected a whole number of at least 1"),
    ({"like": "gpt2", "seq": 64, "phase": "training"}, "unknown phase 'training'"),
    ({"like": "gpt2", "seq": 64, "optimizer": "adamww"}, "unknown optimizer 'adamww'"),
    ({"like": "gpt2", "seq": 64, "dropout": 1.5}, "dropout 1.5: expected a probability"),
    ({"config": "/nowhere"}, "cannot read /nowhere"),
    ({"config": {"model_type": "llama"}}, "config: there is no hidden_size"),
    ({"like": "gpt2", "seq": 64, "sequence": 4}, "unknown setting 'sequence'"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_use_is_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        memmodel.model(**given)

"""A whole model in the other commands: the largest size, sweeps and pictures."""

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

import memmodel
from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.events.liveness import summary
from memmodel.models.catalogue import listed
from memmodel.models.choices import attentions, model_case
from memmodel.models.families import architecture_of
from memmodel.models.letters import model_formulas
from memmodel.models.predict import architecture
from memmodel.models.record import record, record_in_full
from memmodel.models.sweep import model_sweep

TINY = {
    **{"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 192},
    **{"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
}


@pytest.fixture
def config(tmp_path: Any) -> str:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return str(tmp_path / "config.json")


def run(*arguments: str) -> str:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False).output


def peak(**setting: Any) -> int:
    return memmodel.model(config=TINY, gpu="A100", **setting).prediction.memory.live_peak_bytes


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    arguments = ("max", "--gpu", "L4", "--model", "llama-3.2-1b", "--over", "batch", "--seq", "2k")
    (found,) = json.loads(run(*arguments, "--set", "checkpoint=block", "--json"))["thresholds"]
    for batch, fits in ((found["largest"], True), (found["first_failing"], False)):
        at = memmodel.model("llama-3.2-1b", "L4", batch=batch, seq=2048, checkpoint="block")
        assert at.prediction.memory.fits is fits


def test_a_sweep_has_the_peaks_of_single_predictions(config: str) -> None:
    rows = json.loads(run("sweep", "--model", config, "--batch", "1,2,5", "--seq", "256,1k,2k", "--json"))["rows"]
    assert len(rows) == 9
    for row in rows:
        assert row["live_peak_bytes"] == peak(batch=row["batch"], seq=row["seq"])


@pytest.mark.parametrize(
    "choices",
    [{}, {"checkpoint": "block", "loss": "chunked"}, {"microbatches": 2, "clip": True}],
    ids=lambda choices: " ".join(choices),
)
def test_a_long_sweep_has_the_peaks_of_steps_run_in_full(choices: dict[str, Any]) -> None:
    """At random sizes, of which few are recorded, and not all layers of these."""
    case = model_case(architecture_of({**TINY, "num_hidden_layers": 6}, "tiny"), batch=16, seq=8192, **choices)
    found = model_sweep(case, range(1, 17), range(3200, 8193, 64))
    for row in random.Random(0).sample(range(len(found.batch)), 5):
        one = replace(case, batch=int(found.batch[row]), seq=int(found.seq[row]))
        assert found.live_peak_bytes[row] == summary(record_in_full(one)).peaks["peak"], (one.batch, one.seq)


def test_a_sweep_with_a_gpu_has_the_verdict_and_times_of_single_predictions(config: str) -> None:
    rows = json.loads(run("sweep", "--model", config, "--seq", "256,1k", "--gpu", "H100,T4", "--json"))["rows"]
    assert [(row["gpu"], row["seq"]) for row in rows] == [
        (gpu, seq) for gpu in ("h100-sxm", "t4") for seq in (256, 1024)
    ]
    for row in rows:
        alone = memmodel.model(config=config, gpu=row["gpu"], seq=row["seq"]).prediction
        bound, expected = alone.time, alone.calibrated
        assert row["fits"] is alone.memory.fits
        assert row["allocated_peak_bytes"] == alone.memory.allocated_peak_bytes
        assert row["seconds_at_least"] == (bound and bound.seconds)
        ends = [row[f"seconds_{end}"] for end in ("low", "expected", "high")]
        assert ends == ([expected.low, expected.seconds, expected.high] if expected else [None] * 3)


def test_pictures_of_a_step(config: str) -> None:
    shown = json.loads(run("timeline", "--model", config, "--seq", "256", "--json"))["panels"][0]
    assert max(moment["live_bytes"] for moment in shown["moments"]) == peak(seq=256)
    assert {"activations", "logits", "gradients"} <= {band["name"] for band in shown["bands"]}
    points = json.loads(run("roofline", "--model", config, "--gpu", "H100", "--seq", "256", "--json"))["points"]
    assert {"mm", "silu"} <= {point["kernel"] for point in points}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("max", "--model", "gpt2", "--heads", "3"), "--model and --heads: a whole model has its own"),
        (("max", "--model", "gpt2", "--over", "heads", "--seq", "64"), "unknown size of a model 'heads'"),
        (("max", "--model", "gpt2", "--set", "checkpoint"), "--set checkpoint: expected NAME=VALUE"),
        (
            ("sweep", "--model", "gpt2", "--seq", "1:3k:1", "--gpu", "H100"),
            "3,072 sizes make more than 2,000",
        ),
        (("timeline", "--model", "gpt3000"), "unknown model 'gpt3000'"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*arguments)


WEIGHTS = ("parameters", "gradients", "optimizer")


def value(formulas: Mapping[str, str], numbers: Mapping[str, int]) -> int:
    texts = [text.replace("·", "*").replace("²", "**2").replace(",", "") for text in formulas.values()]
    return int(sum(eval(text, {}, dict(numbers)) for text in texts))


@pytest.mark.parametrize("name", ["llama-3-8b", "deepseek-v2-lite", "llama-4-maverick", "gpt-oss-20b", "t5-large"])
def test_formulas_hold_at_other_sizes(name: str) -> None:
    """All terms are letters: a batch of one, which shapes may not show, and as many tokens as channels are no trap."""
    arch = listed(name).architecture
    small, large = (model_case(arch, batch=batch, seq=seq) for batch, seq in ((1, 640), (3, 1024)))
    found, other = model_formulas(small), model_formulas(large)
    assert value(found.peak, found.values) == summary(record(small)).peaks["peak"]
    assert value(found.saved, other.values) == value(other.saved, other.values)
    weights = [group for group in found.peak.keys() & other.peak.keys() if group.split()[0] in WEIGHTS]
    assert weights
    assert [found.peak[group] for group in weights] == [other.peak[group] for group in weights]


def test_a_gpt_layer_keeps_what_the_account_says() -> None:
    """Korthikanti et al. 2022: 34 s b h + 5 a s² b bytes a layer in 16 bits."""
    setting = {"batch": 2, "seq": 512, "attention": "naive", "dropout": 0.1, "attention_dropout": 0.1}
    arch = replace(listed("gpt2").architecture, activation="gelu")  # in one kernel, as in Megatron-LM
    found = model_formulas(model_case(arch, **setting))
    numbers = {letter: found.values[letter] for letter in "VHFhgdebn"}

    def kept(layers: int) -> int:
        return value(found.saved, {**numbers, "L": layers})

    b, n, hidden, heads = 2, 512, 768, 12
    # Beside the account: mean and reciprocal of two norms in fp32, and the causal mask, a byte a pair.
    left_out = 16 * b * n + n * n
    assert kept(1) - kept(0) == 34 * b * n * hidden + 5 * b * heads * n * n + left_out


@pytest.mark.parametrize("checkpoint", ["none", "block"])
def test_a_kernel_by_name_is_the_one_that_pytorch_takes(checkpoint: str) -> None:
    """On an A100, for causal attention in bf16: recomputed or not."""
    peaks = {
        memmodel.model(
            "llama-3.2-1b", gpu="A100", seq=1024, attention=attention, checkpoint=checkpoint
        ).prediction.memory.live_peak_bytes
        for attention in ("sdpa", "sdpa-flash")
    }
    assert len(peaks) == 1


def test_eager_attention_is_the_default_of_capped_scores_and_a_fused_one_is_advised() -> None:
    report = memmodel.model("gemma-2-2b", "A100", seq=4096)
    assert report.prediction.case.attention == "eager"
    assert any("--attention flash-attn" in one.change for one in report.mitigations)
    with pytest.raises(UsageError, match="gemma-2-2b caps its scores"):
        memmodel.model("gemma-2-2b", "A100", attention="sdpa")
    with pytest.raises(UsageError, match="gpt-oss-20b has attention sinks"):
        memmodel.model("gpt-oss-20b", "A100", attention="flash-attn")


@pytest.mark.parametrize("phase", ["train", "prefill", "decode"])
def test_a_model_runs_with_every_attention_that_it_offers(phase: str) -> None:
    found = {}
    for name in attentions():
        with suppress(UsageError):
            case = model_case(architecture(None, TINY), attention=name, phase=phase, seq=2048)
            found[name] = summary(record(case)).peaks["peak"]
    assert {"sdpa", "eager", "naive", "chunked", "flash-attn", "flex"} <= set(found)
    if phase != "decode":  # the scores of one layer's 4 heads, and their softmax, in bf16
        assert found["naive"] - found["flash-attn"] > 2 * 4 * 2048**2


@pytest.mark.parametrize("name", ["decode-eager", "flash-mla", "flash-attn-varlen"])
def test_attention_over_a_cache_or_packed_sequences_is_no_models(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown attention '{name}'"):
        peak(attention=name)

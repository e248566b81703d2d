"""What somebody meets who types commands for the first time: help, pipes, typos, missing options."""

import copy
import csv
import inspect
import io
import json
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

import memmodel
from memmodel.base.errors import UsageError
from memmodel.cli import cli, output
from memmodel.gpus import load_gpu
from memmodel.models.choices import SETTINGS
from memmodel.predictor import predict
from memmodel.report.console import text
from memmodel.report.tables import value_text, verdicts


def run(*args: str) -> str:
    result = CliRunner().invoke(cli, args, catch_exceptions=False, standalone_mode=False)
    return result.output


def test_no_command_shows_the_help() -> None:
    assert run() == run("--help")


@pytest.mark.parametrize("command", ["predict", "max", "formulas", "sweep", "completion"])
def test_help_gives_examples_a_line_each(command: str) -> None:
    examples = run(command, "--help").partition("Examples:\n")[2]
    assert f"memmodel {command}" in examples
    assert "\\b" not in run(command, "--help")


@pytest.mark.parametrize("command", [["predict", "--gpu", "H100"], ["max"], ["gpus"], ["gpus", "A100"], ["formulas"]])
def test_a_pipe_gets_80_columns_and_no_spaces_at_line_ends(command: list[str]) -> None:
    lines = run(*command).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("step", ["0", "-3"])
def test_max_refuses_a_step_below_one(step: str) -> None:
    with pytest.raises(UsageError, match=f"step {step}: expected a whole number of at least 1"):
        run("max", "--step", step)


def test_max_json_says_which_case() -> None:
    (found,) = json.loads(run("max", "-a", "naive", "--dtype", "fp16", "--step", "1024", "--json"))["thresholds"]
    assert found["case"]["dtype"] == "fp16"
    assert found["case"]["seq"] == found["largest"]


def test_sweep_without_ranges_is_one_configuration_each() -> None:
    header, *rows = run("sweep").splitlines()
    assert [row.split(",")[0] for row in rows] == ["naive", "flash"]
    assert {row.split(",")[header.split(",").index("seq")] for row in rows} == {"4096"}


def test_sweep_takes_sizes_as_other_commands_do() -> None:
    assert run("sweep", "--seq", "8k", "--window", "4k") == run("sweep", "--seq", "8192", "--window", "4096")


def test_many_algorithms_keep_their_names_in_full() -> None:
    out = run("predict", "-a", "naive,flash,chunked,checkpointed,compiled,naive-by-hand")
    assert "…" not in out


def test_explain_shows_sources_in_full() -> None:
    assert "…" not in run("predict", "--explain")


@pytest.mark.parametrize(
    ("gpu", "seq", "expandable", "verdict"),
    [
        ("A100", 4096, False, "naive attention fits: "),
        ("A100", 16384, False, "and reserves 80.64 GiB by fragmentation"),
        ("A100", 16384, True, "naive attention fits: "),
        ("A100", 32768, False, "naive attention does not fit in 79.26 GiB: it allocates"),
        ("A10", 1024, False, "the GPU's capacity is not known"),
    ],
)
def test_verdicts(gpu: str, seq: int, expandable: bool, verdict: str) -> None:
    from memmodel.allocator import AllocatorConfig

    report = predict(gpu, "naive", seq=seq, config=AllocatorConfig(expandable_segments=expandable))
    (line,) = verdicts(report)
    assert verdict in line.words


def test_tensors_that_exceed_what_the_context_leaves_are_no_fragmentation() -> None:
    """Four score matrices and q, k, v, their output, its gradient and v's: below the capacity, above the room."""
    h, n, d = 32, 7744, 128
    live = 2 * (4 * h * n * n + 6 * h * n * d)
    memory = predict("T4", "naive", heads=h, seq=n, head_dim=d, dtype="fp16").predictions[0].memory
    assert memory.live_peak_bytes == live
    assert memory.capacity_bytes is not None
    assert memory.context_bytes is not None
    assert memory.capacity_bytes - memory.context_bytes[1] < live < memory.capacity_bytes
    assert memory.excess == "tensors"
    assert memory.verdict == "does not fit in 14.76 GiB: it allocates 14.67 GiB, and the context takes 135.00 MiB"


def test_the_first_screen_says_what_is_counted_and_which_values_are_defaults() -> None:
    shown = text(predict("A100", heads=16, seq=512))
    assert "no weights, no optimizer (whole models: memmodel model)" in shown.split("\n\n")[0]
    assert "- defaults: train, bf16, batch 1, head dim 128, no mask, no dropout\n" in shown
    of_model = text(predict("A100", like="llama-3-8b", dtype="fp16"))
    assert "- defaults: train, batch 1, seq 4096, no dropout; heads, head dim and mask of llama-3-8b" in of_model


def test_amd_has_its_own_names() -> None:
    shown = text(predict("MI300X", "flash", seq=512))
    assert "amd-smi" in shown
    assert "matrix cores (" in shown
    assert "nvidia-smi" not in shown.casefold()
    assert "nvidia-smi" in text(predict("A100", "flash", seq=512))


def test_many_queries_of_a_cache_say_how_to_ask_for_one() -> None:
    many = predict("A100", "decode", seq=2048, phase="inference")
    assert many["decode"].notes[0].endswith("--seq 1 --kv-seq 2048")
    notes = predict("A100", "decode", seq=1, kv_seq=2048, phase="inference")["decode"].notes
    assert not any("--seq" in note for note in notes)


def test_values_of_a_gpu_carry_units() -> None:
    gpu = load_gpu("a100-80gb-sxm")
    assert value_text("bandwidth", gpu.bandwidth) == "2.04 TB/s"
    assert value_text("tensor.bf16", gpu.peak_by_name("bf16")) == "312 TFLOP/s"
    assert value_text("tensor.int8", 624e12) == "624 Top/s"
    assert value_text("l2", 40 * 2**20) == "40.00 MiB"
    assert value_text("tdp", 400) == "400 W"
    assert value_text("sm_count", 108) == "108"


def test_text_of_a_report_has_no_spaces_at_line_ends() -> None:
    assert all(line == line.rstrip() for line in text(predict("A100")).splitlines())


def test_a_report_is_read_by_algorithm_and_in_order() -> None:
    report = predict("A100", ["naive", "flash"], seq=512)
    assert [prediction.case.algorithm for prediction in report] == ["naive", "flash"]
    assert len(report) == 2
    assert report["flash"] is report.predictions[1]
    with pytest.raises(UsageError, match="unknown algorithm of this report 'falsh': did you mean flash"):
        report["falsh"]


def test_a_report_can_be_copied_and_pickled() -> None:
    report = predict("A100", "naive", seq=512)
    for twin in (copy.deepcopy(report), pickle.loads(pickle.dumps(report))):
        assert twin == report
        assert text(twin) == text(report)  # sizes keep their letters


def test_python_sees_the_arguments_of_every_function() -> None:
    assert {"gpu", "algorithms", "like", "seq", "calibration"} <= inspect.signature(memmodel.predict).parameters.keys()
    functions = [found for name in memmodel.__all__ if inspect.isroutine(found := getattr(memmodel, name))]
    assert memmodel.trace in functions
    for function in functions:
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize("function", [memmodel.model, memmodel.compare])
def test_each_keyword_that_a_signature_shows_is_taken_with_its_default(function: Any) -> None:
    model = {"like" if function is memmodel.model else "model": "qwen2.5-0.5b", "batch": 1, "seq": 256}
    keywords = {
        name: one.default
        for name, one in inspect.signature(function).parameters.items()
        if name in SETTINGS and name not in ("gpus", "virtual_stages", *model)
    }
    assert {"optimizer", "dropout", "lora", "tp", "dtype"} <= keywords.keys()
    given = {"gpus": ["A100"]} if function is memmodel.compare else {"gpu": "A100"}
    found, usual = (function(**given, **model, **more) for more in (keywords, {}))
    assert text(found) == text(usual)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memmodel.compare(["A100"], sek=4), "unknown setting 'sek': did you mean seq"),
        (lambda: memmodel.compare(["A100"], optimizer="sgd"), "unknown setting 'optimizer'"),
        (lambda: memmodel.model("qwen2.5-0.5b", adapter=3), "adapter 3: expected a memmodel Adapter"),
        (lambda: memmodel.predict(["A100", "H100"], "flash")["L4"], "unknown GPU of these reports 'L4'"),
    ],
)
def test_what_a_function_does_not_take_is_a_usage_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_reports_side_by_side_are_found_by_the_names_that_they_were_asked_by() -> None:
    found = memmodel.predict(["A100", "H100"], "flash", seq=512)
    assert [found[name].gpu.id for name in ("A100", "h100", "h100-sxm")] == ["a100-80gb-sxm", "h100-sxm", "h100-sxm"]


def test_a_note_on_several_algorithms_is_said_once() -> None:
    """AMD lists no rate of exponentials, which both algorithms take."""
    words = " ".join(run("predict", "--gpu", "MI300X", "--seq", "1k").split())
    assert words.count("the exp ceiling is left out") == 1
    assert "naive, flash: the exp ceiling is left out" in words


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ("--softcap 50", {"softcap": "50.0"}),
        ("--dropout 0.1", {"dropout": "0.1"}),
        ("--bias learned --bias-shape b,h", {"bias": "learned", "bias_shape": "b,h"}),
        ("--window 64 --sink-keys 4", {"mask": "window", "window": "64", "sink_keys": "4"}),
        ("", {}),
    ],
)
def test_rows_of_a_sweep_name_every_setting_that_is_not_the_default(options: str, columns: dict[str, str]) -> None:
    (row,) = csv.DictReader(io.StringIO(run("sweep", "-a", "naive", "--seq", "256", *options.split())))
    assert {name: row[name] for name in columns} == columns
    assert {"softcap", "dropout", "bias", "bias_shape", "sink_keys", "torch", "chunk"} & row.keys() <= columns.keys()


def test_without_torch_a_trace_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="needs PyTorch: pip install torch"):
        memmodel.trace(len)


@pytest.mark.parametrize("terminal", [True, False])
def test_work_of_a_second_says_so_on_a_terminal_alone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark comes at once here, instead of after a second."""
    monkeypatch.setattr(output, "_SILENT", 0.0)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with output.busy("searching") as say:
        wait_until(lambda: not terminal or "searching" in stream.getvalue())
        say("drawing")
        wait_until(lambda: not terminal or "drawing" in stream.getvalue())
    assert bool(stream.getvalue()) == terminal


def test_a_trace_says_what_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    said = []
    monkeypatch.setattr("memmodel.cli.trace.busy", lambda words: said.append(words) or output.busy(words))
    run("trace", "torch.nn.functional:silu", "--input", "input=4,4")
    assert said == ["importing torch", "importing torch.nn.functional:silu", "tracing"]


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(500):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within five seconds")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window": "x"}, "window x: expected a whole number"),
        ({"seq": 4096.9}, "seq 4096.9: expected a whole number"),
        ({"gpu": 3}, "unknown GPU '3'"),
        ({"like": 3}, "unknown model '3': there are .* .`memmodel models` lists them."),
        ({"mask": "none", "window": 64}, "--mask none and --window 64"),
        ({"algorithms": 3}, "unknown algorithm '3'"),
        ({"algorithms": ["flash", 3]}, "unknown algorithm '3'"),
        ({"algorithms": []}, "algorithms: expected at least one name"),
        ({"batch": None}, "batch None: expected a whole number"),
        ({"seq": None}, "seq None: expected a whole number"),
        ({"chunk": None}, "chunk None: expected a whole number"),
        ({"dropout": None}, "dropout None: expected a probability"),
        ({"config": 1}, "config 1: expected a memmodel AllocatorConfig"),
        ({"calibration": "a.json"}, "calibration 'a.json': expected a memmodel Calibration"),
    ],
)
def test_wrong_arguments_in_python_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        predict(**given)


def test_the_soft_cap_of_a_model_is_taken_and_else_said_to_be_missing() -> None:
    """Gemma 2's config.json has attn_logit_softcapping 50; scaled_dot_product_attention has no cap."""
    of_model = predict("A100", ["naive", "sdpa"], like="gemma-2-9b", seq=512)
    said = predict("A100", "naive", like="gemma-2-9b", seq=512, softcap=50)
    assert of_model["naive"].memory == said["naive"].memory
    assert [prediction.case.scores.softcap for prediction in of_model] == [50, None]
    assert "sdpa: without the soft cap of 50 of gemma-2-9b, which it does not take" in of_model.assumptions
    assert not any("without" in assumption for assumption in said.assumptions)
    assert predict("A100", "naive", like="gemma-2-9b", seq=512, softcap=30)["naive"].case.scores.softcap == 30


@pytest.mark.parametrize("sizes", [[4096.9], [4096.0], [float("nan")], ["4096"], [2**70], 4096, [True]])
def test_a_sweep_cuts_no_size(sizes: Any) -> None:
    from memmodel.attention.case import make_case
    from memmodel.sweeps import grid, sweep

    case = make_case("naive")
    with pytest.raises(UsageError, match=r"seq .*: expected a list of whole numbers"):
        sweep(case, {**grid(case, {}), "seq": sizes})
    with pytest.raises(UsageError, match=r"seq .*: expected a list of whole numbers"):
        grid(case, {"seq": sizes})

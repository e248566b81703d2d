"""Code that a trace refuses says why and what to do; code that is merely unusual is traced."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import careless_functions as careless
import pytest
import torch

import memmodel
from memmodel.base.errors import UsageError
from memmodel.cli import run
from memmodel.tracer.specs import parse_at, parse_input
from memmodel.tracer.target import target

ROOT = Path(memmodel.__file__).parents[1]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (careless.sparse, "makes a sparse tensor"),
        (careless.nests, "makes a nested tensor"),
        (careless.packs, "hand the layer the padded batch"),
        (careless.steps_by_lbfgs, "trace a step of its closure alone"),
        (careless.Counting(), "two traces of the function allocate differently"),
        (careless.NeedsWidth, "a class whose instances need width"),
        (careless.in_a_thread, "tensors in a thread of its own"),
        (careless.recurses, "raised RecursionError"),
        (careless.waits, "is a coroutine"),
        (careless.yields, "is a generator"),
        (careless.multiplies_unlike_types, "must have one type, but got torch.float32 and torch.float64"),
        (careless.counts_classes_in_32_bits, "takes them as torch.int64, but got torch.int32"),
        (careless.adds_unlike_types, "must have one type"),
        (careless.unnamed, "takes inputs without names"),
        (careless.scaled, "what is no tensor needs a default"),
    ],
    ids=lambda x: getattr(x, "__name__", "") or None,
)
def test_what_is_refused_is_one_clear_sentence(function: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        memmodel.trace(function, {"x": "N,8"}, at={"N": 8})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_code_that_draws_numbers_is_traced_several_times() -> None:
    def said(function: Any) -> str:
        notes = memmodel.trace(function, {"x": "N,8"}, at={"N": 8}, formulas=False).notes
        return next(note for note in notes if "draws numbers" in note)

    assert said(careless.draws).endswith("several traces of it have the same live peak")
    assert "5 traces of it have live peaks from" in said(careless.RandomWidth)


def test_a_value_that_is_printed_is_taken_as_one_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    found = memmodel.trace(careless.prints_a_value, {"x": "N,8"}, at={"N": 8})
    assert any("a tensor's value is taken as 1" in note and "careless_functions.py" in note for note in found.notes)
    assert "mean 1.00" in capsys.readouterr().out


@pytest.mark.parametrize("function", [careless.best_places, careless.under_inference_mode])
def test_a_training_step_without_gradient(function: Any) -> None:
    with pytest.raises(UsageError, match="needs no gradient"):
        memmodel.trace(function, {"x": "N,8"}, step="train", at={"N": 8})


def test_a_leaf_that_is_changed_in_place_is_pytorchs_error() -> None:
    with pytest.raises(UsageError, match="leaf Variable that requires grad"):
        memmodel.trace(careless.changes_its_input, {"x": "N"}, step="train")


@pytest.mark.parametrize(
    ("function", "step", "tensors"),  # of N elements, alive at the peak
    [
        (careless.nothing, "inference", 2),
        (careless.text_and_number, "inference", 1),
        (careless.nested, "inference", 3),
        (careless.changes_its_input, "inference", 1),
        (careless.under_inference_mode, "inference", 3),
        (careless.draws_for_nothing, "inference", 2),
        (careless.annotated, "inference", 2),
    ],
    ids=lambda x: getattr(x, "__name__", "") or None,
)
def test_what_is_unusual_is_traced(function: Any, step: str, tensors: int) -> None:
    found = memmodel.trace(function, {"x": "N"}, step=step, at={"N": 1000})
    assert found.memory.live_peak_bytes == tensors * 4000
    assert any("draws numbers in Python" in note for note in found.notes) is (function is careless.draws_for_nothing)


def test_a_module_made_within_is_where_it_is_moved_to() -> None:
    found = memmodel.trace(careless.moves_its_module, {"x": "N"}, step="inference", at={"N": 1000})
    assert found.memory.live_peak_bytes == 2 * 4000 + 4  # one weight, made once


def test_numpy_takes_the_root_of_a_size_in_letters() -> None:
    found = memmodel.trace(careless.scaled_by_numpy, {"x": "N"}, step="inference", at={"N": 1000})
    assert not found.why_no_forms


def test_a_loss_in_a_dataclass_and_gradients_inside_the_function() -> None:
    loss = memmodel.trace(careless.in_a_dataclass, {"x": "N"}, step="train", at={"N": 1000})
    assert loss.memory.phase_peaks["backward"] > 8000
    inner = memmodel.trace(careless.inner_gradient, {"x": "N"}, at={"N": 1000})
    assert inner.memory.live_peak_bytes >= 8000


def test_the_encoder_layers_fast_path_is_told_as_not_known() -> None:
    inputs, sizes = {"x": "B,N,32"}, {"B": 2, "N": 16}
    evaluated = memmodel.trace(careless.fast_path, inputs, at=sizes, formulas=False)
    assert "fast path" in evaluated.unknown["nn.TransformerEncoderLayer"]
    assert not memmodel.trace(careless.fast_path, inputs, step="train", at=sizes, formulas=False).unknown.keys() & {
        "nn.TransformerEncoderLayer"
    }


@pytest.mark.parametrize("function", [careless.multiplies_unlike_types, careless.counts_classes_in_32_bits])
def test_types_that_are_refused_are_refused_by_pytorch(function: Any) -> None:
    with pytest.raises(RuntimeError):
        function(torch.zeros(6, 8))


def test_modules_made_and_moved_inside() -> None:
    moved = memmodel.trace(careless.module_moved_inside, {"x": "N,8"}, at={"N": 1000})
    assert moved.memory.live_peak_bytes == 2 * 32000 + 8 * 8 * 4
    converted = memmodel.trace(careless.module_converted_inside, {"x": "N,8"}, at={"N": 1000})
    assert converted.memory.live_peak_bytes == 32000 + 2 * 16000 + 8 * 8 * 2


def test_what_is_compiled_inside_runs_as_it_is() -> None:
    found = memmodel.trace(careless.compiled_inside, {"x": "N"}, at={"N": 1000})
    assert found.memory.live_peak_bytes == 3 * 4000


def test_recurrent_layers_are_told_as_not_known() -> None:
    found = memmodel.trace(careless.recurrent, {"x": "N,8"}, at={"N": 3}, formulas=False)
    assert "cuDNN's layer runs instead" in found.unknown["aten::gru"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("relative.py", b"from . import other\n", "name it as PACKAGE.MODULE:FUNCTION from the folder of PACKAGE"),
        ("notebook.ipynb", b"{}", "is no Python file"),
        ("binary.py", b"\0", "SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_files_that_cannot_be_imported(name: str, text: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text)
    with pytest.raises(UsageError, match=words):
        target(f"{path}:f")


@pytest.mark.parametrize("text", ["N=4,N=8", "N=4 B=3", "N=-4", "N=1e3"])
def test_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--at"):
        parse_at(text)


def test_a_misspelt_option_of_an_input() -> None:
    with pytest.raises(UsageError, match="did you mean grad"):
        parse_input("q=B:gard")


def test_a_syntax_error_is_shown_as_theirs(tmp_path: Path) -> None:
    path = tmp_path / "broken_syntax.py"
    path.write_text("def f(x:\n    return x\n")
    with pytest.raises(UsageError, match=r"SyntaxError at .*broken_syntax.py, line 1: '\(' was never closed"):
        target(f"{path}:f")


def test_what_the_code_prints_does_not_mix_with_json(capfd: pytest.CaptureFixture[str]) -> None:
    words = f"{careless.__file__}:prints", "--input", "x=N", "--at", "N=8", "--no-formulas", "--json"
    assert run(["trace", *words]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["memory"]["live_peak_bytes"] == 64
    assert "a line of the user's own" in printed.err


@pytest.mark.parametrize("step", ["inference", "forward", "train", "own"])
def test_code_that_runs_no_kernel_has_memory_and_no_work(step: str) -> None:
    found = memmodel.trace(careless.views, ["x=N,8:fp32"], at={"N": 4}, step=step)
    assert found.memory.live_peak_bytes == (2 if step == "train" else 1) * 4 * 4 * 8  # the upstream gradient
    assert found.work.hbm_bytes == 0
    shown = " ".join(str(found).split())
    assert "HBM traffic 0 B intensity 0 FLOP/B" in shown
    assert "limited by - " in shown


def test_streams_that_the_code_closes_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    words = f"{careless.__file__}:closes_the_streams", "--input", "x=8", "--json"
    assert run(["trace", *words]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["memory"]["live_peak_bytes"] == 64
    assert printed.err == ""


def test_two_kinds_of_step_are_one_too_many(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "careless_functions:prints", "--input", "x=N", "--train", "--step"]) == 2
    assert capfd.readouterr() == ("", "memmodel: --train and --step: give one of them\n")


INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what runs in the background, as tests may
from memmodel.cli import main
main()
"""


@pytest.mark.timeout(60)
def test_an_interrupt_ends_an_endless_loop_with_status_130(tmp_path: Path) -> None:
    path, started = tmp_path / "endless.py", tmp_path / "started"
    path.write_text(f"def f(x):\n    open({str(started)!r}, 'w').close()\n    while True:\n        pass\n")
    words = [sys.executable, "-c", INTERRUPTED, "trace", f"{path}:f", "--input", "x=N"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not started.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate()
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert errors.strip() == "memmodel: interrupted"

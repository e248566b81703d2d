"""Wrong input and code that cannot run without data: one sentence, with the user's line, and exit status 2."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import traced_functions as functions

import memmodel
from memmodel.base.errors import UsageError
from memmodel.cli import run
from memmodel.tracer.specs import parse_at, parse_input
from memmodel.tracer.target import target


def line_of(function: Callable[..., Any], text: str) -> int:
    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line)


@pytest.mark.parametrize(
    ("function", "text", "words"),
    [
        (functions.asks_for_a_value, ".item()", "asks for the value of a tensor"),
        (functions.raises, "{}[1]", "raised KeyError"),
        (functions.asks_cuda, "CUDAGraph", "needs a GPU itself"),
    ],
)
def test_the_users_line_is_named(function: Any, text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        memmodel.trace(function, {"x": "N,N"}, at={"N": 8})
    message = str(error.value)
    assert words in message
    assert f"traced_functions.py, line {line_of(function, text)}" in message
    assert "\n" not in message


def test_shapes_that_do_not_fit_are_the_users_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"raised RuntimeError at .*functions.py, line \d+: .*\[3, 4\] X \[5, 6\]"):
        memmodel.trace(functions.wrong_shapes, {"x": "3,4", "y": "5,6"})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q", "expected NAME=SIZES:DTYPE"),
        ("1q=B", "expected NAME=SIZES:DTYPE"),
        ("q=B,,N", "size ''"),
        ("q=B,N-1", "size 'N-1'"),
        ("q=B,N:bf61", "did you mean bf16"),
        ("q=0", "at least 1"),
        ("q=B:int64:grad", "only floating types"),
    ],
)
def test_specs(text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_input(text)
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["N", "N=", "N=x", "=4", "N=0"])
def test_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_at(text)


def test_sizes_as_people_write_them() -> None:
    assert parse_at("N=16k,B=8") == {"N": 16384, "B": 8}
    assert parse_input("q=B,16k,2*H").sizes == (("B",), (16384,), (2, "H"))


def test_a_letter_that_no_input_has() -> None:
    with pytest.raises(UsageError, match="no input has a size M; the letters are N"):
        memmodel.trace(lambda x: x, {"x": "N"}, at={"M": 3})


def test_inputs_that_are_not_the_functions() -> None:
    with pytest.raises(UsageError, match=r"three_names\(q, k, v\) is given q: expected one input for each of q, k, v"):
        memmodel.trace(functions.three_names, {"q": "B,H,N,D"})


def test_a_training_step_without_gradient() -> None:
    with pytest.raises(UsageError, match="needs no gradient"):
        memmodel.trace(lambda x: x.detach(), {"x": "N"}, step="train")


def test_an_unknown_step_and_what_cannot_be_called() -> None:
    with pytest.raises(UsageError, match="did you mean train"):
        memmodel.trace(lambda x: x, {"x": "N"}, step="trian")
    with pytest.raises(UsageError, match="expected a function or a module"):
        memmodel.trace(3, {"x": "N"})


def test_a_custom_operator_without_a_fake_is_told_how_to_get_one() -> None:
    @torch.library.custom_op("tracertest::doubled", mutates_args=())
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    with pytest.raises(UsageError, match="register_fake"):
        memmodel.trace(lambda x: doubled(x), {"x": "N"}, at={"N": 8})
    doubled.register_fake(torch.empty_like)
    found = memmodel.trace(lambda x: doubled(x), {"x": "N"}, at={"N": 8})
    assert found.memory.live_peak_bytes == 2 * 8 * 4
    assert "tracertest::doubled" in found.unknown  # its arithmetic


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": 5}, r"inputs 5: expected .* or \['q=B,H,N,D:bf16'\]"),
        ({"at": 5}, "at 5: expected sizes such as"),
        ({"gpu": 5}, "unknown GPU '5'"),
        ({"config": "x"}, "config 'x': expected a memmodel AllocatorConfig"),
        ({"torch_version": ["x"] * 1000}, r"torch version \['x', 'x', .*\.\.\.: expected one like 2.11"),
    ],
)
def test_arguments_of_a_wrong_kind_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        memmodel.trace(lambda x: x * 2, **{"inputs": ["x=8"], **given})


def test_a_triton_kernel_is_told_how_to_be_registered() -> None:
    jit = pytest.importorskip("triton.runtime.jit")
    kernel = jit.JITFunction.__new__(jit.JITFunction)
    kernel.__name__ = "softmax_kernel"
    with pytest.raises(UsageError, match=r"the Triton kernel softmax_kernel cannot run without data: .*custom_op"):
        memmodel.trace(lambda x: kernel.run(x, grid=(1,), warmup=False), {"x": "N"})


def test_code_that_exits_is_an_error_too() -> None:
    with pytest.raises(UsageError, match="raised SystemExit"):
        memmodel.trace(lambda x: sys.exit(3), {"x": "N"})


def test_an_endless_trace_ends() -> None:
    with pytest.raises(UsageError, match=r"longer than 500 operators: .* raise --most-operators"):
        memmodel.trace(functions.endless, {"x": "N"}, most_operators=500)


def test_what_cuda_code_says_about_devices_is_understood() -> None:
    found = memmodel.trace(functions.on_cuda, {"x": "N,N"}, at={"N": 16})
    assert found.memory.live_peak_bytes == 4 * (16 * 16 + 16 + 16 * 16)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("traced_functions", "expected PACKAGE.MODULE:FUNCTION"),
        ("traced_functions.py", "name a function of it, traced_functions.py:step"),
        ("traced_functions:three_nams", "did you mean three_names"),
        ("no_such_module_here:f", "unknown module 'no_such_module_here'"),
        ("missing.py:f", "there is no such file"),
        ("traced_functions:SIZES", "is dict, not a function"),
    ],
)
def test_targets(text: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        target(text)
    assert words in str(error.value)


def test_a_module_that_raises_when_imported(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ny = x / 0\n")
    with pytest.raises(UsageError, match=r"cannot be imported: it raises ZeroDivisionError at .*broken.py, line 2"):
        target(f"{path}:f")


def test_the_command_exits_with_status_2_and_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(x):\n    return x + undefined_name\n")
    assert run(["trace", f"{path}:f", "--input", "x=N"]) == 2
    raised = f"the traced code raised NameError at {path}, line 2: name 'undefined_name' is not defined"
    assert capfd.readouterr() == ("", f"memmodel: {raised}\n")

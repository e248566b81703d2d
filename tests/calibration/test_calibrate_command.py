"""`memmodel calibrate` and what reads its file, with measuring replaced."""

import builtins
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.report.calibration import amount, constant_table, progress
from memmodel.report.console import text
from memmodel.timing import Calibration, Constant
from memmodel_validate import nvml
from memmodel_validate.calibrate import machine, run
from memmodel_validate.cpu import cpu


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step that takes no time, on a machine that is idle."""
    monkeypatch.setattr(
        run, "cpu_steps", lambda *_: iter([("launch", lambda _: [("launch", Constant(1e-6, "x", 0.1))])])
    )
    monkeypatch.setattr(machine, "busy", lambda: 0.0)


@pytest.mark.usefixtures("quick")
def test_the_file_is_saved_and_the_table_printed(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    result = invoke("calibrate", "--device", "cpu", "-o", str(path))
    assert result.exit_code == 0, result.output
    assert "1/1 launch" in result.stderr
    assert "1 us" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= max(80, len(f"saved: {path}"))
    saved = json.loads(path.read_text())
    assert saved["machine"]["gpu_id"] == "cpu"
    assert {"cpu", "torch", "threads", "date"} <= saved["machine"].keys()
    assert os.uname().nodename not in path.read_text()


@pytest.mark.usefixtures("quick")
def test_the_default_place_is_where_predict_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMMODEL_HOME", str(tmp_path))
    result = invoke("calibrate", "--device", "cpu", "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "calibrations" / "cpu.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--device", "cpu", "--threads", "0"), "--threads 0: expected 1 to 1024"),
        (("--device", "cpu", "-o", "/dev/null/x"), "cannot write /dev/null/x"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_wrong_use_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    result = invoke("calibrate", *arguments)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="sees no GPU here"):
        run.calibrate("cuda")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("memmodel.cli.calibrate.importlib.import_module", missing)
    from memmodel.cli.calibrate import _harness

    with pytest.raises(UsageError, match=re.escape("pip install 'memmodel[torch]'")):
        _harness("run")


@pytest.mark.usefixtures("quick")
def test_a_busy_machine_is_refused_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "busy", lambda: 0.8)
    path = tmp_path / "cpu.json"
    refused = invoke("calibrate", "--device", "cpu", "-o", str(path))
    assert "others keep 80 % of the cores busy" in str(refused.exception)
    assert "--even-if-busy" in str(refused.exception)
    assert not path.exists()
    assert invoke("calibrate", "--device", "cpu", "-o", str(path), "--even-if-busy").exit_code == 0
    assert "busy machine: others keep 80 %" in json.loads(path.read_text())["notes"][0]


@pytest.mark.parametrize(("others", "used", "said"), [(1, 0, "1 other process "), (2, 0, "2 other processes "),
                                                      (0, 40, "the GPU is 40 % busy"), (0, 1, "")])  # fmt: skip
def test_a_busy_gpu_is_noticed(others: int, used: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=-1)] * others,
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=used),
    }
    calls = {name: lambda *_, answer=answer: answer for name, answer in answers.items()}
    library = SimpleNamespace(nvmlInit=lambda: None, nvmlShutdown=lambda: None, **calls)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(nvml, "_handle", lambda library: 0)
    assert machine.reason_busy("cuda").startswith(said)
    assert bool(machine.reason_busy("cuda")) == bool(said)


@pytest.mark.usefixtures("quick")
def test_an_interrupted_run_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpu.json"
    path.write_text("old")

    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "cpu_steps", lambda *_: iter([("launch", interrupted)]))
    assert invoke("calibrate", "--device", "cpu", "-o", str(path)).exit_code != 0
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["cpu.json"]


def test_flash_that_cannot_be_solved_is_a_note() -> None:
    def found() -> Any:
        raise UsageError("too noisy")
        yield

    notes: list[str] = []
    assert run._if_possible(found(), notes) == []
    assert notes == ["no constants of flash attention: too noisy"]


def test_a_step_measured_again_keeps_the_better(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = Constant(1.0, "x"), Constant(2.0, "x")
    assert run.better("fault", None, slow) == slow
    assert run.better("fault", fast, slow) == fast
    assert run.better("launch", fast, slow) == slow
    assert run.better("flash.flops", fast, slow) == slow  # belongs with the flash.exp measured with it


def test_predict_uses_a_calibration_and_names_its_origin(file: Path) -> None:
    predicted = json.loads(
        invoke("predict", "--gpu", "A100", "--dtype", "fp32", "--calibration", str(file), "--json").stdout
    )
    assert any("a CPU" in line for line in predicted["assumptions"])
    explained = invoke("predict", "--gpu", "A100", "--dtype", "fp32", "--calibration", str(file), "--explain").stdout
    assert "calibrated: made up" in " ".join(explained.split())


def test_a_calibration_of_another_gpu_or_torch_warns_and_says_which(file: Path) -> None:
    text = " ".join(invoke("predict", "--gpu", "A100", "--calibration", str(file), "--torch", "2.11").stdout.split())
    assert "the calibration is of cpu, not of a100-80gb-sxm" in text
    assert "made with torch 2.13.0+cpu, not 2.11" in text


def test_the_table_shows_the_datasheet_and_the_measured_share(calibration: Calibration) -> None:
    from memmodel.gpus import load_gpu

    shown = text(constant_table(calibration, load_gpu("A100")), width=80)
    row = next(line for line in shown.splitlines() if line.startswith("bandwidth"))
    assert "2.04 TB/s" in row
    assert f"{4e10 / 2.039e12:.1%}".replace("%", " %") in row
    assert max(map(len, shown.splitlines())) <= 80
    assert "-" in next(line for line in text(constant_table(calibration, cpu()), 80).splitlines() if "fault" in line)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (2e9, "B/s", "2.00 GB/s"),
        (1e-6, "s", "1 us"),
        (2.0**25, "B", "32.00 MiB"),
        (0.5, "", "0.5"),
        (7, "cycles", "7 cycles"),
    ],
)
def test_amounts_have_units(value: float, unit: str, shown: str) -> None:
    assert amount(value, unit) == shown


def test_progress_in_a_pipe_is_lines(tmp_path: Path) -> None:
    with builtins.open(tmp_path / "log", "w") as stream, progress(stream) as say:
        say("softmax", 0, 2)
        say("flash attention", 1, 2)
    assert (tmp_path / "log").read_text() == "1/2 softmax\n2/2 flash attention\n"

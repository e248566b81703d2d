"""The command line as a user meets it: what it prints, how it fails, what it imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import memmodel
from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.gpus.keys import KEYS, PEAK_TABLES
from memmodel.models.catalogue import model_shape, models
from memmodel.predictor import predict

ROOT = Path(memmodel.__file__).parents[1]


def run(*arguments: str) -> str:
    """The output of a command that succeeds."""
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "validate"))
    env = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "80", **environment}
    command = [sys.executable, "-m", "memmodel", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


WRONG = [
    (["predict", "--gpu", "A1000"], "unknown GPU 'A1000'"),
    (["predict", "--gpu", "L4o"], "did you mean l4"),
    (["predict", "--seq", "0"], "seq 0: expected a whole number of at least 1"),
    (["predict", "--seq", "-4"], "seq -4: expected a whole number of at least 1"),
    (["predict", "--softcap", "nan"], "--softcap 'nan': expected a number such as 50"),
    (["predict", "--seq", "1.5"], "--seq 1.5: expected a whole number such as 4096 or 16k"),
    (["predict", "--seq", "many"], "--seq many: expected a whole number"),
    (["predict", "--batch", "99999999999"], "above 2147483648"),
    (["predict", "--heads", "32", "--kv-heads", "5"], "kv-heads must be a divisor of heads, such as 4"),
    (["predict", "--heads", "2147483647", "--kv-heads", "5"], "such as 1"),
    (["predict", "--dtype", "bf61"], "unknown dtype 'bf61': did you mean bf16"),
    (["predict", "--mask", "casual"], "unknown mask 'casual': did you mean causal"),
    (["predict", "--mask", "window"], "add --window"),
    (["predict", "--window", "64", "--mask", "none"], "--mask none and --window 64: give one of them"),
    (["predict", "--gpu", ""], "--gpu '': expected a value, or leave --gpu out"),
    (["validate", "--device", ""], "--device '': expected a value"),
    (["validate", "--ledger", ""], "--ledger '': expected a value"),
    (["validate", "--device", "tpu"], "unknown device 'tpu': did you mean cpu"),
    (["frontier", "--sizes", ""], "--sizes '': expected a value"),
    (["trace", "m:f", "--input", ""], "--input '': expected a value"),
    (["predict", "--kv-seq", "1_"], "--kv-seq 1_: expected a whole number"),
    (["predict", "--seq", "_1k"], "--seq _1k: expected a whole number"),
    (["predict", "--gpu", "x" * 200_000], "xxx...: there are"),
    (["predict", "--seq", "x" * 200_000], "xxx...: expected a whole number"),
    (["predict", "--dtype", "fp4"], "dtype fp4 is not modelled yet: take fp16, bf16, fp32 or fp64"),
    (["predict", "--dtype", "fp8"], "naive in fp8_e4m3: its products are not in fp8; take -a flash-attn-3"),
    (["models", "llama-9"], "unknown model 'llama-9': did you mean llama"),
    (["predict", "--seq", ""], "--seq '': expected a whole number"),
    (["predict", "--window", "8k"], "window 8192 with 4096 keys: give a window from 1 to 4096"),
    (["predict", "--dropout", "1.5"], "dropout 1.5: expected a probability"),
    (["predict", "--dropout", "0.1", "-a", "chunked"], "chunked has no dropout"),
    (["predict", "--phase", "training"], "unknown phase 'training': did you mean train"),
    (["predict", "--torch", "1.13"], "torch version 1.13: the model was checked against 2.4 to 2.15"),
    (["predict", "--torch", "new"], "torch version 'new': expected one like 2.11"),
    (["predict", "--algorithm", "nave"], "unknown algorithm 'nave': did you mean naive"),
    (["predict", "--algorithm", ","], "expected at least one name"),
    (["predict", "--like", "lama-3-8b"], "unknown model 'lama-3-8b': did you mean llama-3-8b"),
    (["predict", "--mask", "causal", "--seq", "8k", "--kv-seq", "4k"], "kv-seq must be at least seq"),
    (["predict", "-a", "chunked", "--seq", "8M"], "at most 4096 chunks, give a --chunk of 2048 or more"),
    (
        ["predict", "-a", "decode", "--seq", "128k"],
        "take --phase inference (and for one new token: --seq 1 --kv-",
    ),
    (["predict", "--sq", "4"], "No such option '--sq'"),
    (["predict", "--gpu-file", "/nowhere/gpu.toml"], "cannot read /nowhere/gpu.toml"),
    (["prdict"], "unknown command 'prdict': did you mean predict"),
    (["max", "--over", "depth"], "unknown size 'depth'"),
    (["max", "--gpu", "B100"], "capacity"),
    (["formulas", "chunked", "--mask", "causal"], "closed form only without a mask"),
    (["gpus", "H300"], "unknown GPU 'H300'"),
    (["sweep", "--seq", "1k:2k"], "expected first:last:step"),
    (["sweep", "--seq", "1k:2k:0"], "the step must lead upwards"),
    (["sweep", "--seq", "4k:2k:1k"], "the range holds no size"),
    (["sweep", "--format", "xml"], "unknown format 'xml'"),
    (["sweep", "--output", "/nowhere/rows.csv"], "can't be written"),
    (["sweep", "--heads", "8", "--kv-heads", "1,3"], "kv-heads must divide heads"),
    (["completion", "csh"], "unknown shell 'csh'"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda x: " ".join(x)[:80] if isinstance(x, list) else "")
def test_wrong_use_is_one_sentence_and_status_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from memmodel import cli as module

    monkeypatch.setattr(sys, "argv", ["memmodel", *arguments])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in captured.err
    assert captured.err.startswith("memmodel: ")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 400
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("allocator", [(), ("--expandable-segments",)])
def test_the_largest_sizes_are_answered(allocator: tuple[str, ...]) -> None:
    size = str(2**31)
    output = run("predict", "--seq", size, "--batch", size, "--heads", size, "-a", "naive,flash", *allocator)
    assert "naive attention does not fit" in output
    assert "FlashAttention-2 in Triton does not fit" in output


def test_the_first_screen_answers_what_people_ask() -> None:
    output = run("predict", "--gpu", "A100-40GB", "--seq", "16384")
    assert "naive attention does not fit" in output
    assert "FlashAttention-2 in Triton fits" in output
    assert "What fills the live peak" in output
    assert "What would make it fit" in output
    assert "limited by" in output
    assert "Assumed" in output


def test_the_screen_is_80_columns_wide_in_a_pipe_and_has_no_colour_codes() -> None:
    for command in (["predict", "--seq", "16k"], ["max"], ["formulas", "naive-by-hand"], ["gpus"], ["gpus", "H100"]):
        output = shell(*command).stdout
        assert output
        assert max(map(len, output.splitlines())) <= 80
        assert "\x1b" not in output


def test_json_has_the_promised_keys() -> None:
    report = json.loads(run("predict", "--json", "--gpu", "H100", "-a", "naive"))
    (prediction,) = report["predictions"]
    assert {"algorithm", "memory", "work", "time", "tensors"} <= prediction.keys()
    promised = {
        "live_peak_bytes",
        "allocated_peak_bytes",
        "reserved_peak_bytes",
        "saved_bytes",
        "capacity_bytes",
        "fits",
    }
    assert promised <= prediction["memory"].keys()
    assert {"flops", "hbm_bytes", "intensity"} <= prediction["work"].keys()
    assert {"seconds", "binding"} <= prediction["time"].keys()


def test_a_model_gives_its_shape_and_options_override_it() -> None:
    report = json.loads(run("predict", "--json", "--like", "llama-3-8b", "--seq", "1k", "--heads", "16"))
    case = report["predictions"][0]["case"]
    assert (case["heads"], case["kv_heads"], case["mask"]) == (16, 8, "causal")


@pytest.mark.parametrize("name", ["gpt2", "gpt3", "vit-b16", "mistral-7b", "gemma-2-9b", "deepseek-v3", "whisper-tiny"])
def test_a_model_can_be_taken(name: str) -> None:
    report = predict(like=name, seq=8192, phase="inference")
    case, shape = report.predictions[0].case, model_shape(name)
    assert (case.heads, case.kv_heads, case.head_dim) == (shape["heads"], shape["kv_heads"], shape["head_dim"])
    assert (case.mask.name, case.value_dim) == (shape["mask"], shape.get("value_dim", case.head_dim))


def test_every_model_is_listed() -> None:
    listed = run("models")
    assert [name for name in models() if name not in listed] == []


def test_sizes_of_a_model_give_way_to_those_given() -> None:
    mistral = predict(like="mistral-7b", seq=8192, mask="causal", heads=16, algorithms="naive")
    (prediction,) = mistral.predictions
    assert (prediction.case.heads, prediction.case.kv_heads, prediction.case.mask.name) == (16, 8, "causal")
    assert predict(like="mistral-7b", seq=8192, algorithms="naive")["naive"].case.mask.window == 4096


def test_the_help_of_gpus_names_every_key_of_a_gpu_file() -> None:
    text = run("gpus", "--help")
    short = {"bandwidth_TBps": "_TBps", "capacity_MiB": "_MiB", "capacity_bytes": "_bytes"}
    assert [key for key in (*KEYS, *PEAK_TABLES) if short.get(key, key) not in text] == []


def test_explain_gives_every_ceiling_and_its_source() -> None:
    output = run("predict", "--explain", "--seq", "2k")
    for needed in (
        "= 4·b·h·n·(3·d + 2·n)",
        "= 2·b·h·n²",
        "every ceiling",
        "HBM",
        "tensor cores",
        "exp units",
        "as torch reports it",
        "Rates",
        "whitepaper",
    ):
        assert needed in output


def test_explain_leaves_out_a_formula_that_does_not_hold() -> None:
    """Chunked attention's closed form is for four chunks; 4096 queries make two of 2048."""
    output = run("predict", "--explain", "-a", "chunked", "--chunk", "2048", "--phase", "inference")
    assert "live peak" in output
    assert " = " not in output.split("Work")[0]


def test_formulas_say_what_changes_them() -> None:
    first = run("formulas", "naive", "--softcap", "50", "--dropout", "0.1", "--bias", "learned").splitlines()[0]
    assert first == "naive, train, bf16, dropout 0.1, learned bias, soft cap 50"


def test_latex() -> None:
    assert r"2 b h n^{2}" in run("formulas", "naive", "--latex")


def test_sweep_writes_a_file_and_asks_before_overwriting(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    run("sweep", "--seq", "1k:4k:*2", "--output", str(target))
    lines = target.read_text().splitlines()
    assert len(lines) == 1 + 2 * 3  # header, two algorithms, three sizes
    with pytest.raises(UsageError, match="add --force"):
        run("sweep", "--output", str(target))
    assert target.read_text().splitlines() == lines
    run("sweep", "--seq", "1k", "--output", str(target), "--force")
    assert len(target.read_text().splitlines()) == 1 + 2


def test_gpu_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "Mine"\nbase = "a10"\ncapacity_GiB = 22\n')
    report = json.loads(run("predict", "--json", "--gpu-file", str(file), "-a", "naive"))
    assert report["gpu"]["name"] == "Mine"
    assert report["predictions"][0]["memory"]["capacity_bytes"] == 22 * 2**30


def test_completion_offers_commands_and_gpus() -> None:
    result = shell(_MEMMODEL_COMPLETE="bash_complete", COMP_WORDS="memmodel predict --gpu h1", COMP_CWORD="3")
    assert "h100-sxm" in result.stdout


def test_a_closed_pipe_is_no_error() -> None:
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "validate"))
    command = f"{sys.executable} -m memmodel gpus --json | head -n 1"
    env = {**os.environ, "PYTHONPATH": paths}
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=env, check=False)
    assert result.stdout == "{\n"
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [["predict"], ["predict", "--json"], ["gpus"]])
def test_answers_come_without_the_heavy_libraries(arguments: list[str]) -> None:
    code = (
        "import sys, os; os._exit = lambda status: print([m for m in "
        "('torch', 'triton', 'numpy', 'sympy', 'matplotlib', 'hypothesis') if m in sys.modules], file=sys.stderr);"
        f"sys.argv = ['memmodel', *{arguments!r}]; from memmodel.cli import main; main()"
    )
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "validate"))
    env = {**os.environ, "PYTHONPATH": paths}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert result.stderr.strip() == "[]"

"""A trace as a picture, as LaTeX and over many sizes: the same as the built-in algorithm's."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from traced_functions import INPUTS

import memmodel
from memmodel.base.errors import UsageError
from memmodel.base.units import formula_text
from memmodel.cases import cases_of, on_gpu
from memmodel.cli import cli
from memmodel.gpus import load_gpu
from memmodel.pictures.timeline import timeline
from memmodel.report.formulas import rows

SIZES = {"B": 2, "H": 3, "N": 1024, "D": 64}
CASE = {"batch": 2, "heads": 3, "head_dim": 64, "dtype": "bf16"}
FILE = Path(__file__).parents[2] / "examples" / "trace_your_own.py"
CALL = (f"{FILE}:attention", *(word for name in "qkv" for word in ("--input", f"{name}=B,H,N,D:bf16")), "--train")


def naive(q: Any, k: Any, v: Any) -> Any:
    import memmodel_kernels

    return memmodel_kernels.naive(q, k, v)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["trace", *CALL, *arguments])


@pytest.mark.parametrize("phase", ["inference", "forward", "train"])
def test_the_timeline_is_the_built_in_one(phase: str) -> None:
    """Moment by moment: live, allocated and reserved bytes; and what is kept for backward, at most."""
    ours = memmodel.trace(naive, INPUTS, step=phase, at=SIZES, gpu="A100", formulas=False).timeline()
    gpu = load_gpu("A100")
    (case,) = on_gpu(cases_of(["naive"], **CASE, seq=1024, phase=phase), gpu)
    theirs = timeline(case, gpu)
    assert [m[2:5] for m in ours.moments] == [m[2:5] for m in theirs.moments]
    assert max(m.saved_bytes for m in ours.moments) == max(m.saved_bytes for m in theirs.moments)
    assert ours.peak == theirs.peak
    assert ours.at_peak.live_bytes == ours.memory.live_peak_bytes
    assert max(m.reserved_bytes for m in ours.moments) == ours.memory.reserved_peak_bytes


def test_the_timeline_of_a_step_that_keeps_tensors_is_its_last() -> None:
    import torch

    kept: list[Any] = []

    def step(x: Any) -> Any:
        kept.append(x * 2)
        return kept[-1].sum()

    found = memmodel.trace(step, ["x=N:fp32"], at={"N": 2**20}, formulas=False)
    shown = found.timeline()
    assert shown.moments[0].live_bytes == (1 + 2) * 4 * 2**20  # x, and what two calls before kept
    assert shown.at_peak.live_bytes == found.memory.live_peak_bytes
    assert isinstance(kept[0], torch.Tensor)


def test_a_sweep_has_a_row_for_each_size() -> None:
    found = run("--at", "B=2,H=3,D=64", "--sweep", "N=512:2k:*2")
    assert found.exit_code == 0, found.output
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    assert [int(row["N"]) for row in rows] == [512, 1024, 2048]
    for row in rows:
        n = int(row["N"])
        assert int(row["saved_bytes"]) == 2 * 2 * 3 * n * n  # the probabilities
        assert int(row["live_peak_bytes"]) == 2 * 2 * 3 * n * (4 * n + 6 * 64)  # as docs/trace.md's formula says
        assert row["fits"] == "True"
    assert json.loads(run("--at", "B=2,H=3,D=64", "--sweep", "N=512", "--json").stdout)["rows"][0]["N"] == 512


def test_latex_has_every_formula() -> None:
    found = memmodel.trace(naive, INPUTS, step="train", at=SIZES)
    assert found.forms is not None
    lines = found.latex().splitlines()
    assert len(lines) == len(list(rows(found.forms)))
    assert lines[0] == r"\text{saved for backward, bytes} &= 2 B H N^{2} \\"
    assert formula_text(found.forms.saved) == "2·B·H·N²"
    with pytest.raises(UsageError, match="not asked for"):
        memmodel.trace(naive, INPUTS, at=SIZES, formulas=False).latex()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sweep", "N"), "--sweep N: expected a letter and its sizes"),
        (("--sweep", "Q=1k"), "no input has a size Q"),
        (("--sweep", "N=5:1:1"), "the range holds no size"),
        (("--sweep", "N=1k", "--latex"), "--sweep and --latex: give one of them"),
        (("--latex", "--timeline"), "--latex and --timeline: give one of them"),
        (("-o", "picture.txt"), "expected a file name that ends in .svg or .png"),
    ],
)
def test_wrong_use_is_named(arguments: tuple[str, ...], words: str) -> None:
    found = run(*arguments)
    assert isinstance(found.exception, UsageError)
    assert words in str(found.exception)


def test_a_picture_is_drawn_into_a_file(tmp_path: Path) -> None:
    file = tmp_path / "step.svg"
    assert run("--at", "B=2,H=3,N=1k,D=64", "-o", str(file)).exit_code == 0
    assert "weights" in file.read_text(encoding="utf-8")
    assert isinstance(run("--at", "B=2,H=3,N=1k,D=64", "-o", str(file)).exception, UsageError)  # it exists

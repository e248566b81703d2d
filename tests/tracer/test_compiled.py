"""Traces of compiled code: buffers and their names, formulas, graphs, errors; without a compiler and without files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import traced_functions as functions
from torch import Tensor
from traced_functions import INPUTS, SIZES

import memmodel
from memmodel.allocator.cublas import parse_torch_version
from memmodel.base.errors import UsageError
from memmodel.events.program import Alloc, Launch
from memmodel.tracer.compiled.formulas import forms_of
from memmodel.tracer.compiled.wrapper import copy_if_misaligned
from memmodel.tracer.result import Trace

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.skipif(parse_torch_version(torch.__version__) < (2, 13), reason="the compiler of an older PyTorch"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("without_advice"),
]
WIDE = dict.fromkeys("qkv", "B,H,N,D")


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    powers = torch.exp(scores - scores.amax(-1, keepdim=True))
    weights = powers / powers.sum(-1, keepdim=True)
    return weights @ v


def broken(x: Tensor) -> Tensor:
    y = x * 2
    torch._dynamo.graph_break()
    return y.exp()


@torch._dynamo.disable
def eager_scale(y: Tensor) -> Tensor:
    weights = torch.ones(y.shape, device="cuda", requires_grad=True)
    return y * weights


@pytest.fixture(scope="module")
def found() -> Trace:
    return memmodel.trace(by_hand, WIDE, step="train", at=SIZES, compiled=True)


def test_saved_is_what_the_partitioner_keeps(found: Trace) -> None:
    """Raw scores, probabilities, and each row's maximum and sum."""
    b, h, n = (SIZES[x] for x in "BHN")
    assert found.memory.saved_bytes == 4 * b * h * (2 * n * n + 2 * n)


def test_fused_kernels_make_no_tensors_between_them(found: Trace) -> None:
    """Two storages of scores in forward: the product, and what one kernel makes of it."""
    b, h, n = (SIZES[x] for x in "BHN")
    forward = found.program.phases()["forward"]
    assert sum(isinstance(e, Alloc) and e.nbytes == 4 * b * h * n * n for e in forward) == 2
    assert [e.name.partition("_fused")[0] for e in forward if isinstance(e, Launch)] == ["bmm", "triton_per", "bmm"]


def test_buffers_have_the_names_and_lines_of_the_code(found: Trace) -> None:
    made = {record.name.partition(" (")[0]: record.where for record in found.tensors}
    first = by_hand.__code__.co_firstlineno
    assert made["scores"] == f"by_hand, line {first + 1}"
    assert made["weights"] == f"by_hand, line {first + 3}"
    assert {"q.grad", "k.grad", "v.grad", "dout", "output"} <= set(made)
    assert {line.function for line in found.lines} == {"by_hand"}


def test_formulas_hold_at_other_sizes(found: Trace) -> None:
    assert found.forms is not None
    sizes = {"B": 3, "H": 5, "N": 384, "D": 48}
    other = memmodel.trace(by_hand, WIDE, step="train", at=sizes, compiled=True, formulas=False)
    assert found.forms.value(found.forms.saved, sizes) == other.memory.saved_bytes
    for phase, peak in other.memory.phase_peaks.items():
        assert max(found.forms.value(b.expression, sizes) for b in found.forms.peaks[phase]) == peak
    assert "other sizes may be planned otherwise" in found.forms.region


def test_no_formulas_where_a_storage_is_no_product(found: Trace) -> None:
    added = memmodel.trace(lambda x: torch.cat([x, x[:1]]), {"x": "N,D"}, at={"N": 64, "D": 32}, compiled=True)
    assert added.forms is None
    assert "no product of the sizes" in added.why_no_forms
    with pytest.raises(UsageError, match="plans other buffers"):
        forms_of(found.program, SIZES, lambda _: added.program)


def test_half_precision_is_replaced_by_fused_attention() -> None:
    """Inductor's patterns find it in 16 bits; in 32 bits on CUDA only where products may use TF32."""
    scaled = memmodel.trace(functions.three_names, INPUTS, step="train", at=SIZES, compiled=True, formulas=False)
    wide = memmodel.trace(functions.three_names, WIDE, step="train", at=SIZES, compiled=True, formulas=False)
    b, h, n, d = (SIZES[x] for x in "BHND")
    rows, seeds = 4 * b * h * n, 24
    assert scaled.memory.saved_bytes - 2 * b * h * n * d - rows <= seeds
    assert wide.memory.saved_bytes >= 4 * b * h * n * n
    assert [t.graphs.fused_attention for t in (scaled, wide) if t.graphs] == [True, False]


def test_dropout_keeps_a_bool_for_each_score() -> None:
    def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.dropout(torch.softmax(q @ k.mT, -1), 0.1, True) @ v

    found = memmodel.trace(dropped, WIDE, step="train", at=SIZES, compiled=True, formulas=False)
    b, h, n = (SIZES[x] for x in "BHN")
    kept = [
        record for record in found.tensors if record.kept_by.startswith("saved for") and record.dtype.name == "bool"
    ]
    assert [record.nbytes for record in kept] == [b * h * n * n]


def test_graph_breaks_are_told() -> None:
    found = memmodel.trace(broken, {"x": "N"}, at={"N": 1000}, compiled=True)
    assert found.graphs is not None
    assert [graph.kind for graph in found.graphs.graphs] == ["inference", "inference"]
    assert "1 graph breaks, eager between them" in str(found)
    assert any("graph_break()" in note for note in found.notes)


def test_eager_code_between_graphs_asks_for_cuda_too() -> None:
    """With gradients a fake tensor on the GPU would end the process."""

    def scaled(x: Tensor) -> Tensor:
        y = x * 2
        torch._dynamo.graph_break()
        return eager_scale(y) + 1

    found = memmodel.trace(scaled, {"x": "N"}, at={"N": 100}, step="train", compiled=True, formulas=False)
    assert found.memory.phase_peaks["backward"] > 0


def test_an_input_is_copied_where_it_does_not_begin_as_kernels_expect() -> None:
    x = torch.empty(1001)
    assert copy_if_misaligned(x) is x
    assert copy_if_misaligned(x[4:]).storage_offset() == 4
    assert copy_if_misaligned(x[1:]).storage_offset() == 0


def test_code_asks_for_cuda_and_sees_it() -> None:
    """A product with ones is folded away: nothing is allocated."""
    found = memmodel.trace(functions.on_cuda, {"x": "N,N"}, at={"N": 8}, compiled=True, formulas=False)
    assert found.memory.phase_peaks["forward"] == 4 * 8 * 8


@pytest.mark.parametrize(
    ("function", "inputs", "words"),
    [
        (
            functions.branches_on_data,
            {"x": "8,8"},
            r"asks for the value of a tensor at .*_functions.py, line \d+",
        ),
        (functions.raises, {"x": "8,8"}, r"raised KeyError at .*traced_functions.py, line \d+"),
        (
            functions.wrong_shapes,
            {"x": "3,4", "y": "5,6"},
            r"cannot compile the code at .*line \d+.*\[3, 4\] X \[",
        ),
        (functions.under_autocast, {"x": "8,8"}, r"autocast\('cuda'\) is not traced"),
        (lambda x: x, {"x": "8"}, "compiles nothing of it"),
    ],
)
def test_errors_are_one_sentence(
    function: Any, inputs: dict[str, str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=words) as error:
        memmodel.trace(function, inputs, compiled=True)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_bfloat16_stays_eager_on_a_gpu_without_it() -> None:
    with pytest.raises(UsageError, match=r"leaves the code to eager PyTorch on this GPU \(BF16 is not supported\)"):
        memmodel.trace(functions.three_names, INPUTS, at=SIZES, gpu="T4", compiled=True)


def test_scatter_of_bfloat16_is_atens_kernel_before_hopper() -> None:
    """torch/_inductor/utils.py, use_scatter_fallback. Apart, zeros are made when scores and probabilities are gone:

    a matrix less at the peak, and the sum a row that the fused kernel leaves. Indices of maxima are 8 bytes.
    """

    def maximum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1)
        powers = torch.exp(scores - scores.max(-1, keepdim=True)[0])
        return powers / powers.sum(-1, keepdim=True) @ v

    n = 512
    inputs = dict.fromkeys("qkv", f"1,{n},32:bf16")
    peaks = [
        memmodel.trace(maximum, inputs, step="train", gpu=gpu, compiled=True, formulas=False).memory.live_peak_bytes
        for gpu in ("A100", "H100")
    ]
    assert peaks[1] - peaks[0] == 2 * (n * n - n)


def test_what_is_replaced_is_put_back() -> None:
    from torch._inductor import compile_fx, pattern_matcher
    from torch._subclasses.fake_tensor import FakeTensor

    before = compile_fx.compile_fx, torch.cuda.get_device_properties, dict(os.environ)
    memmodel.trace(by_hand, WIDE, at=SIZES, compiled=True, formulas=False)
    assert (compile_fx.compile_fx, torch.cuda.get_device_properties, dict(os.environ)) == before
    assert pattern_matcher.torch is torch
    assert "__getitem__" not in vars(FakeTensor)


def test_no_compiler_runs_and_no_file_stays(tmp_path: Path) -> None:
    """In a process without a PATH, with a folder for temporary files that is empty afterwards."""
    source = tmp_path / "model.py"
    source.write_text("import torch\n\ndef f(x):\n    return torch.softmax(x @ x.mT, -1) @ x\n")
    files = tmp_path / "files"
    files.mkdir()
    paths = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-m", "memmodel", "trace", "model.py:f", "--input", "x=B,N,D", "--compiled", "--json"]
    environment = {"PATH": "", "TMPDIR": str(files), "PYTHONPATH": paths, "HOME": str(tmp_path), "USER": "user"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    found = json.loads(done.stdout)
    assert found["compiled"]["graphs"][0]["kind"] == "inference"
    assert done.stderr == ""
    assert list(files.iterdir()) == []


def test_embeddings_are_compiled_without_a_gpu() -> None:
    """Their backward asks `~mask` of a GPU's tensor, which PyTorch's CPU build refuses by itself."""
    model = torch.nn.Sequential(torch.nn.Embedding(100, 16), torch.nn.Linear(16, 8))
    found = memmodel.trace(
        model, {"input": "B,N:int64"}, step="train", at={"B": 2, "N": 4}, compiled=True, formulas=False
    )
    assert found.memory.saved_bytes == 2 * 4 * 16 * 4  # what the linear layer reads


def test_a_second_shape_is_compiled_too() -> None:
    """Each call keeps what its gelu reads, of its own size; both calls are one step."""
    attend = torch.compile(lambda x: torch.nn.functional.gelu(x @ x.mT).sum())

    def both(x: Tensor, y: Tensor) -> Tensor:
        return attend(x) + attend(y)

    found = memmodel.trace(
        both, {"x": "N,8", "y": "M,8"}, step="train", at={"N": 64, "M": 96}, compiled=True, formulas=False
    )
    assert found.memory.saved_bytes == 4 * (64 * 64 + 96 * 96)

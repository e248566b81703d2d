"""Training code as people write it: what it holds, which result is the loss."""

import copy
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn, optim

import memmodel
from memmodel.base.errors import UsageError
from memmodel.events.program import Alloc
from memmodel.gpus import load_gpu
from memmodel.tracer.api import imported

F32 = 4


def make(n: int) -> Any:
    """A step of a model with n x n parameters; its optimizer's method has the name of another step below."""
    model = nn.Linear(n, n, bias=False)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def run(x: Tensor) -> None:
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


step = make(512)
small = make(32)
layers = [nn.Linear(16, 16, bias=False) for _ in range(2)]
first, second = layers


def test_an_attribute_is_not_a_global() -> None:
    found = memmodel.trace(small, {"x": "B,32:nograd"}, step="own", at={"B": 4}, formulas=False)
    weight, x, loss = 32 * 32 * F32, 4 * 32 * F32, F32
    # the loss's gradient is expanded to the output's, which the product needs as numbers
    assert found.memory.live_peak_bytes == 2 * weight + x + x + 2 * loss


class Trainer:
    """A model and its optimizer where trainers keep them: on another object, in a list and a dict."""

    def __init__(self) -> None:
        model = nn.Linear(256, 256, bias=False)
        self.parts = SimpleNamespace(models=[model], optimizers={"all": optim.AdamW(model.parameters())})

    def step(self, x: Tensor) -> None:
        self.parts.models[0](x).sum().backward()
        self.parts.optimizers["all"].step()
        self.parts.optimizers["all"].zero_grad()


trainer = Trainer()


def test_models_are_found_on_objects_in_lists_and_in_dicts() -> None:
    """AdamW on CUDA holds weights, gradients, two moments, and its list form one tensor more."""
    for run in (trainer.step, lambda x: trainer.step(x)):
        found = memmodel.trace(run, {"x": "B,256:nograd"}, step="own", at={"B": 1}, formulas=False)
        assert found.memory.live_peak_bytes == 256 * F32 + 5 * (256 * 256 * F32)


def updating(held: Any) -> Any:
    """A step that updates by hand what `held` takes of the model: before the step, or, if `held` is None, within."""
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    before = held(model.parameters()) if held else None

    def run(x: Tensor) -> None:
        weights = model.parameters() if before is None else before.values() if isinstance(before, dict) else before
        gradients = torch.autograd.grad(model(x).sum(), tuple(weights))
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            weight.data -= 0.1 * gradient

    return run


@pytest.mark.parametrize("held", [list, tuple, lambda parameters: dict(enumerate(parameters))])
def test_parameters_that_the_code_held_before_are_the_models(held: Any) -> None:
    given = {"inputs": {"x": "B,64:nograd"}, "step": "own", "at": {"B": 4}, "formulas": False}
    found, within = (memmodel.trace(updating(each), **given) for each in (held, None))
    assert found.memory == within.memory


averages = {"weight": torch.zeros(64, 64)}


def average(x: Tensor) -> None:
    averages["weight"] = 0.9 * averages["weight"] + x


def test_a_tensor_of_before_the_trace_ends_where_the_code_replaces_it() -> None:
    found = memmodel.trace(average, {"x": "64,64:nograd"}, step="own", formulas=False)
    assert found.memory.live_peak_bytes == 4 * (64 * 64 * F32)  # x, the average before, its product and the sum


def test_globals_that_a_comprehension_reads_are_found() -> None:
    def run(x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in (first, second)]

    names = {e.key for e in memmodel.trace(run, {"x": "B,16"}, at={"B": 4}).program.events if isinstance(e, Alloc)}
    assert len(names) == 1 + 2 + 2  # x, two weights, two results


def test_deep_copies_share_what_their_originals_share() -> None:
    """PyTorch copies the storage, whole and once (Tensor.__deepcopy__)."""

    def run(x: Tensor) -> list[Tensor]:
        halves: list[Tensor] = copy.deepcopy([x[:1], x[1:]])
        return halves

    found = memmodel.trace(run, {"x": "B,16"}, at={"B": 4})
    assert found.memory.live_peak_bytes == 2 * (4 * 16 * F32)


def test_a_step_by_its_place_may_write_its_softmax_out(tmp_path: Path) -> None:
    """Advice on such code is found by running it again, which its place is not: there is none."""
    (tmp_path / "by_hand.py").write_text("def step(x):\n    e = x.exp()\n    return e / e.sum()\n")
    assert memmodel.trace(f"{tmp_path / 'by_hand.py'}:step", {"x": "N"}, at={"N": 64}).memory.fits


class Output(NamedTuple):
    logits: Tensor
    loss: Tensor
    auxiliary: Tensor


class Model(nn.Module):
    """Logits, a loss and another scalar."""

    def __init__(self, form: type) -> None:
        super().__init__()
        self.head = nn.Linear(8, 64, bias=False)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        logits = self.head(x)
        loss, auxiliary = logits.square().mean(), x.square().mean()
        if self.form is dict:
            return {"logits": logits, "loss": loss, "auxiliary": auxiliary}
        return Output(logits, loss, auxiliary) if self.form is Output else (loss, logits)


def backward_of(form: type, **options: Any) -> tuple[list[str], tuple[str, ...]]:
    """Names of what backward starts from, and the notes."""
    found = memmodel.trace(Model(form), {"x": "B,8"}, step="train", at={"B": 4}, formulas=False, **options)
    return [x for x in found.program.names.values() if x.startswith("dout")], found.notes


@pytest.mark.parametrize(("form", "said"), [(dict, "loss"), (Output, "loss"), (tuple, "the scalar result")])
def test_backward_starts_from_the_loss(form: type, said: str) -> None:
    upstream, notes = backward_of(form)
    assert upstream == []  # as of `loss.backward()`
    assert any(note.startswith(f"backward from {said} alone") for note in notes)


def test_backward_starts_from_what_is_asked_for() -> None:
    assert backward_of(dict, loss="logits")[0] == ["dout"]
    assert backward_of(Output, loss="auxiliary")[0] == []
    assert backward_of(tuple, loss="1")[0] == ["dout"]
    assert backward_of(dict, loss="all")[0] == ["dout", "dout1", "dout2"]
    with pytest.raises(UsageError, match=r"unknown result that needs a gradient 'lsos'.*did you mean loss"):
        backward_of(dict, loss="lsos")


def test_lines_are_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "installed_part.py").write_text("def doubled(x):\n    y = x * 2\n    return y + y\n")
    monkeypatch.syspath_prepend(str(folder))
    library = importlib.import_module("installed_part")

    def run(x: Tensor) -> Any:
        return library.doubled(x)

    (line,) = memmodel.trace(run, {"x": "N"}, at={"N": 8}, formulas=False).lines
    assert (line.file, line.function.rpartition(".")[2], line.text) == (__file__, "run", "return library.doubled(x)")
    assert line.nbytes == 2 * 8 * F32  # y and the sum
    assert [place.split(":")[0] for place in line.stack] == [str(folder / "installed_part.py"), __file__]
    with pytest.raises(UsageError, match=rf"raised TypeError at {__file__}, line \d+"):
        memmodel.trace(lambda x: library.doubled({x}), {"x": "N"}, at={"N": 8}, formulas=False)


def test_pytorch_asks_whether_a_mask_is_causal() -> None:
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def saved(**options: Any) -> Any:
        def run(x: Tensor, m: Tensor) -> Any:
            return encoder(x, mask=m, **options)

        inputs = {"x": "2,N,32", "m": "N,N:nograd"}
        found = memmodel.trace(run, inputs, at={"N": 48}, step="forward", formulas=False)
        return found.memory.saved_bytes, any("taken as causal" in note for note in found.notes)

    asked, said = saved(is_causal=True)
    assert saved() == (asked, True)
    assert not said


def test_code_for_cuda_counts_integers() -> None:
    def run(ids: Tensor) -> Tensor:
        counted = ids.float() if ids.device.type == "cpu" else ids.int()
        return torch.histc(counted, bins=8, min=0, max=7)

    found = memmodel.trace(run, {"ids": "N:int64"}, at={"N": 64}, formulas=False)
    assert found.memory.live_peak_bytes == 64 * 8 + 64 * 4 + 8 * 4  # a histogram of int32


SCRIPT = """
import torch
assert torch.cuda.is_available() and torch.cuda.device_count() == 1
device = torch.device("cuda", torch.cuda.current_device())
print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).multi_processor_count)
model = torch.nn.Linear(64, 64, bias=False).to(device)
noise = torch.Generator(device=device)
side = torch.cuda.Stream()
region = torch.autocast(device.type, torch.bfloat16, enabled=torch.cuda.is_bf16_supported())
scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")


def run(x):
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with region:
        loss = model(x.to(place)).sum()
    scaler.scale(loss).backward()
    print(f"{torch.cuda.max_memory_allocated() / 2**20:.1f} MiB", x.device, place, torch.device(place).type)
"""


def test_a_script_finds_the_gpu_that_is_modelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "script_for_a_gpu.py"
    path.write_text(SCRIPT)
    gpu = load_gpu("H100")
    found = memmodel.trace(imported(f"{path}:run", gpu), {"x": "8,64"}, step="own", gpu=gpu, formulas=False)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{gpu.name} {gpu.sm_count}"
    assert printed[1] == "0.0 MiB cuda:0 cuda cuda"
    assert any(event.shape == (64, 64) and event.dtype.name == "bfloat16" for event in found.program.births())
    assert not any("GradScaler made before the trace" in note for note in found.notes)
    assert any("statistic of the GPU's memory is taken as 1" in note for note in found.notes)
    assert not torch.cuda.is_available()  # undone


place = "cpu"


def test_a_device_that_was_chosen_without_a_gpu_is_said() -> None:
    def run(x: Tensor) -> Tensor:
        return x.half() if place == "cuda" else x * 2

    notes = memmodel.trace(run, {"x": "N"}, at={"N": 8}, formulas=False).notes
    assert any(note.startswith("place in the code is the CPU") for note in notes)

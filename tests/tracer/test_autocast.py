"""torch.autocast("cuda"): casts as CUDA's lists say, kept as PyTorch keeps them; defaults of optimizers; scalers."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
import torch
from test_users_functions import of_steps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from traced_events import events

import memmodel
from memmodel.base.device import CPU
from memmodel.base.errors import UsageError
from memmodel.events.liveness import phase_peaks
from memmodel.tracer.corrections.autocast import Autocast
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.watch.run import Setting, traced
from memmodel.tracer.watch.watcher import Watcher
from memmodel.tracer.watch.watching import watching
from memmodel_validate.cpu_events import profiled
from memmodel_validate.events import in_order
from torch_events import without

BF16, F32 = 2, 4
B, N = 8, 32


def regions(device: str) -> None:
    """Weights that are used twice, a region inside that is off, one without a cache, losses in float32."""
    w, x = nn.Parameter(torch.empty(N, N)), torch.empty(B, N, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        y = torch.relu(functional.linear(functional.linear(x, w), w))
        with torch.autocast(device, enabled=False):
            y = y.float() @ w
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            y = y @ w
        y = torch.bmm(y[None], w[None])
        loss = functional.mse_loss(y, torch.empty_like(y))
    loss.backward()


def recomputed(device: str) -> None:
    """A checkpoint inside a region, whose backward is outside of it."""
    w, x = nn.Parameter(torch.empty(N, N)), torch.empty(B, N, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        y = checkpoint(
            lambda a: torch.relu(functional.linear(torch.relu(functional.linear(a, w)), w)), x, use_reentrant=False
        )
        loss = functional.mse_loss(y, torch.empty_like(y))
    loss.backward()


@pytest.mark.parametrize("body", [regions, recomputed])
def test_casts_are_those_of_a_real_run_where_the_lists_agree(body: Callable[[str], None]) -> None:
    watcher, autocast = Watcher(CPU), Autocast()
    with watching(watcher), autocast.installed(), ExitStack() as stack:
        for target, name, replacement in autocast.replacements(watcher.note):
            stack.enter_context(mock.patch.object(target, name, replacement))
        body("cuda")
    # states of the random generator are the host's
    assert events(watcher.program) == in_order(without(profiled(lambda: body("cpu")), 5056))


RESULTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], torch.dtype]] = {  # of a bfloat16 and a float32 tensor
    "linear": (lambda h, w: functional.linear(h, w), torch.bfloat16),
    "einsum": (lambda h, w: torch.einsum("ij,jk->ik", w, w), torch.bfloat16),
    "attention": (lambda h, w: functional.scaled_dot_product_attention(*[w[None, None]] * 3), torch.bfloat16),
    "gelu": (lambda h, w: functional.gelu(h), torch.bfloat16),
    "softmax": (lambda h, w: h.softmax(-1), torch.float32),
    "layer_norm": (lambda h, w: functional.layer_norm(h, (N,), w[0], w[1]), torch.float32),
    "rms_norm": (lambda h, w: functional.rms_norm(h, (N,), w[0]), torch.float32),
    "exp": (lambda h, w: h.exp(), torch.float32),
    "sum": (lambda h, w: h.sum(), torch.float32),
    "sum to bfloat16": (lambda h, w: h.sum(0, dtype=torch.bfloat16), torch.bfloat16),
    "norm": (lambda h, w: h.norm(), torch.float32),
    "cross_entropy": (lambda h, w: functional.cross_entropy(h, h.argmax(-1)), torch.float32),
    "addcmul": (lambda h, w: torch.addcmul(h, h, w), torch.float32),
    "cumsum of integers": (lambda h, w: h.argmax(-1).cumsum(0), torch.int64),
}


@pytest.mark.parametrize(("call", "kind"), RESULTS.values(), ids=RESULTS)
def test_types_are_those_of_the_operator_reference(call: Callable[..., Tensor], kind: torch.dtype) -> None:
    found = []

    def function(w: Tensor) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            found.append(call(w.bfloat16(), w).dtype)

    memmodel.trace(function, {"w": f"{N},{N}"}, formulas=False)
    assert set(found) == {kind}


weight = nn.Linear(N, N, bias=False)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that there is no GPU
    made_before = torch.autocast("cuda", torch.bfloat16)


def twice(x: Tensor) -> Tensor:
    return weight(weight(x))


def under(context: Any) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        with context():
            return weight(weight(x))

    return function


WRITTEN = {
    "inside": under(lambda: torch.autocast("cuda", torch.bfloat16)),
    "before": under(lambda: made_before),
    "decorator": made_before(twice),
    "off": under(lambda: torch.autocast("cuda", torch.bfloat16, enabled=False)),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_cast_weight_is_kept_once(how: str) -> None:
    found = memmodel.trace(WRITTEN[how], {"x": f"{B},{N}"}, step="forward", formulas=False)
    if how == "off":
        assert found.memory.saved_bytes == B * N * F32  # between the layers; x and the weight are there anyway
    else:
        assert found.memory.saved_bytes == (B * N + B * N + N * N) * BF16  # x, what is between, and the weight once
    assert any("taken as enabled" in note for note in found.notes) == (
        how in ("before", "decorator") and not torch.cuda.is_available()
    )


@pytest.mark.parametrize(("options", "more"), [({}, "list"), ({"foreach": False}, "three"), ({"fused": True}, "steps")])
def test_optimizers_run_on_lists_unless_asked(options: Any, more: str) -> None:
    layers = 4
    model = nn.Sequential(*[nn.Linear(N, N, bias=False) for _ in range(layers)])
    optimizer = torch.optim.AdamW(model.parameters(), **options)

    def step(x: Tensor) -> None:
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    program = memmodel.trace(step, {"x": f"{B},{N}:nograd"}, step="own", formulas=False).program
    one = N * N * F32
    # denominators of all; the last, a root and its quotient; counters on the GPU, and the loss before the step
    temporary = {"list": layers * one, "three": 3 * one, "steps": layers * F32 + 2 * F32}[more]
    moments = 2 * layers * one
    assert phase_peaks(program)["optimizer"] == 2 * layers * one + moments + B * N * F32 + temporary


def test_a_step_with_a_scaler_clipping_and_logging() -> None:
    model = nn.Linear(N, N, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    total, lines = [0.0], []

    def step(x: Tensor) -> None:
        loss = model(x).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        total[0] += loss.item() / 2
        lines.append(f"{total[0]:.3f} {norm:.2f} {float(loss.detach()):.1e}")

    found = traced(Setting(step, inputs_of(f"x={B},{N}:nograd"), "own", CPU, iterations=2), {})
    x = torch.zeros(B, N)
    assert sizable(of_steps(found.program)) == sizable(profiled(lambda: (step(x), step(x))))
    assert sum("taken as 1" in note for note in found.notes) == 2  # lines
    assert sum("a branch goes the way of finite numbers" in note for note in found.notes) == 1
    assert scaler.get_scale() != 0


def sizable(found: list[Any]) -> list[Any]:
    """Without tensors of one element: the profiler does not see all of these."""
    for nbytes in (0, 1, 4, 8):
        found = without(found, nbytes)
    return in_order(found)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x[: int(x.mean().item())],
        lambda x: [x for _ in range(x.long().sum().item())],
    ],
)
def test_values_that_are_sizes_are_refused(use: Callable[[Tensor], Any]) -> None:
    with pytest.raises(UsageError, match=r"an int of a tensor's value.*test_autocast.py, line \d+"):
        memmodel.trace(use, {"x": "N"}, at={"N": 8}, formulas=False)

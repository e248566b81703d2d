"""Users' functions: events are those of PyTorch's CPU allocator, formulas the peaks of real runs at other sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from users_functions import AT, ELSEWHERE, FUNCTIONS

import memmodel
from memmodel.base.device import CPU
from memmodel.base.errors import UsageError
from memmodel.events.liveness import phase_peaks
from memmodel.events.program import Alloc, Mark, Program
from memmodel.gpus import load_gpu
from memmodel.tracer.forms import forms_of
from memmodel.tracer.job import Job
from memmodel.tracer.specs import inputs_of, letters_of
from memmodel.tracer.watch.run import Setting, traced
from memmodel_validate.cpu_events import mark, profiled
from memmodel_validate.events import MemoryEvent, in_order, live_peaks, program_events
from torch_events import without


def real_steps(made: Callable[[], Any], inputs: Any, sizes: Any, steps: int) -> list[MemoryEvent]:
    """Forward and backward in a real run; the gradients go after each step."""
    function, arguments = made(), {}
    for given in inputs_of(inputs):
        zeros = torch.zeros(given.shape(sizes), dtype=given.dtype)
        arguments[given.name] = zeros.requires_grad_(given.dtype.is_floating_point)
    leaves = [*arguments.values(), *parameters(function)]

    def body() -> None:
        for _ in range(steps):
            mark("forward")
            loss = function(**arguments)
            mark("backward")
            loss.backward()
            mark("after")
            del loss
            for leaf in leaves:
                leaf.grad = None

    return profiled(body)


def parameters(function: Any) -> list[torch.Tensor]:
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [x for found in held if isinstance(found, list) for x in found]
    modules = [x for x in held if isinstance(x, torch.nn.Module)]
    return [p for m in modules for p in m.parameters()] + [x for x in held if isinstance(x, torch.nn.Parameter)]


def comparable(events: list[Any]) -> list[Any]:
    return in_order(without(without(events, 0), 8))


def of_steps(program: Program) -> list[Any]:
    first = program.events.index(Mark("forward"))
    return program_events(Program(program.events[first:], {}, {}))


@pytest.mark.parametrize(("made", "inputs"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_events_are_as_the_cpu_allocator_saw_them(made: Callable[[], Any], inputs: Any) -> None:
    found = traced(Setting(made(), inputs_of(inputs), "train", CPU, iterations=2), AT)
    assert comparable(of_steps(found.program)) == comparable(real_steps(made, inputs, AT, 2))


@pytest.mark.parametrize(("made", "inputs"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_formulas_are_the_peaks_of_real_runs_at_other_sizes(made: Callable[[], Any], inputs: Any) -> None:
    given = inputs_of(inputs)
    at = {x: AT[x] for x in letters_of(given)}
    job = Job(Setting(made(), given, "train", CPU), at, load_gpu("A100"), "2.13.0", None)
    steady = job.steady()
    program = steady.traced.program
    _, forms, why, _ = forms_of(job, steady)
    assert forms is not None, why
    assert (forms.fixed, forms.checked) == ({}, True)
    held = int(phase_peaks(program)["inputs"]) - sum(nbytes(x, AT) for x in given)
    before = held + sum(nbytes(x, ELSEWHERE) for x in given)
    real = live_peaks(real_steps(made, inputs, ELSEWHERE, 1))
    for phase in ("forward", "backward"):
        formula = max(forms.value(branch.expression, ELSEWHERE) for branch in forms.peaks[phase])
        assert formula == before + real[phase]


def nbytes(given: Any, sizes: Any) -> int:
    return int(torch.Size(given.shape(sizes)).numel()) * int(given.dtype.itemsize)


def test_sizes_that_are_only_even_have_formulas_too() -> None:
    """Halves of halves are no whole numbers at some of them."""
    made, inputs = FUNCTIONS["pooled twice"]
    found = memmodel.trace(made(), inputs, step="train", at={"B": 2, "h": 10, "w": 14})
    assert found.forms is not None
    assert found.forms.checked


def test_a_users_parameter_gets_its_gradient_back() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    weight.grad = before = torch.full((4,), 7.0)
    found = memmodel.trace(lambda x: (x * weight).sum(), {"x": "N,4"}, step="train", at={"N": 8})
    assert weight.grad is before
    born = [e.nbytes for e in found.program.events if isinstance(e, Alloc)]
    assert born.count(8 * 4 * 4) == 4  # x, the product, x.grad, and what is summed to the weight's gradient
    with pytest.raises(UsageError):
        memmodel.trace(lambda x: x * weight * x.item(), {"x": "N,4"}, step="train", at={"N": 8})
    assert weight.grad is before


@pytest.mark.parametrize("name", ["Adafactor", "ASGD"])
def test_optimizers_that_ask_for_factors(name: str) -> None:
    layer = torch.nn.Linear(16, 24, bias=False)
    optimizer = getattr(torch.optim, name)(layer.parameters())

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    found = traced(Setting(step, inputs_of("x=5,16"), "own", CPU, iterations=2), {}).program
    x = torch.zeros(5, 16)
    assert comparable(of_steps(found)) == comparable(profiled(lambda: (step(x), step(x))))


def test_gradients_that_the_code_hands_to_an_optimizer() -> None:
    half = torch.nn.Linear(16, 16, bias=False).bfloat16()
    master = [p.detach().float().requires_grad_() for p in half.parameters()]
    optimizer = torch.optim.SGD(master, momentum=0.9)

    def step(x: torch.Tensor) -> None:
        half(x.bfloat16()).float().square().mean().backward()
        for weight, own in zip(master, half.parameters(), strict=True):
            assert own.grad is not None
            weight.grad, own.grad = own.grad.float(), None
        optimizer.step()
        optimizer.zero_grad()

    found = traced(Setting(step, inputs_of("x=5,16"), "own", CPU, iterations=2), {}).program
    x = torch.zeros(5, 16)
    assert comparable(of_steps(found)) == comparable(profiled(lambda: (step(x), step(x))))


def test_hooks_of_parameters_that_step_their_optimizers() -> None:
    layers = torch.nn.Sequential(*(torch.nn.Linear(16, 16, bias=False) for _ in range(3)))
    optimizers = {p: torch.optim.Adam([p], foreach=False) for p in layers.parameters()}

    def updated(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in layers.parameters():
        parameter.register_hook(lambda gradient: gradient / 2)
        parameter.register_post_accumulate_grad_hook(updated)

    def step(x: torch.Tensor) -> None:
        layers(x).square().mean().backward()

    found = traced(Setting(step, inputs_of("x=5,16"), "own", CPU, iterations=2), {}).program
    x = torch.zeros(5, 16)
    assert comparable(of_steps(found)) == comparable(profiled(lambda: (step(x), step(x))))


def test_what_a_mask_scatters_back_is_as_large_as_all_of_it() -> None:
    """How much of it the mask picks is not known, nor asked: with zeros for the rest it fills the source."""

    def made() -> Any:
        return lambda a, mask: torch.zeros(4, 50).masked_scatter(mask, a).square().sum()

    inputs = {"a": "4,50", "mask": "4,50:bool"}
    found = traced(Setting(made(), inputs_of(inputs), "train", CPU), {}).program
    peaks, real = phase_peaks(found), live_peaks(real_steps(made, inputs, {}, 1))
    assert int(peaks["backward"]) - int(peaks["inputs"]) == real["backward"]

"""Events of really compiled code on the CPU, and of a trace planned for the CPU."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from memmodel.base.device import CPU
from memmodel.events.program import Alloc, Launch, Mark, Program
from memmodel.tracer.compiled.run import Compiled, traced_compiled
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.watch.run import Setting
from memmodel_validate import cpu_events
from memmodel_validate.events import MemoryEvent, Numbering, in_order, program_events

Events = list[tuple[str, int, int]]
Shapes = dict[str, tuple[int, ...]]


@contextmanager
def own_cache() -> Iterator[None]:
    """Inductor's files in a folder that goes away.

    PyTorch's headers, half the time of a kernel, are compiled once; whether vectors compile is not tried out.
    """
    import torch._inductor.config

    with (
        torch._inductor.config.patch({"cpp_cache_precompile_headers": True, "cpp.vec_isa_ok": True}),
        tempfile.TemporaryDirectory() as files,
        mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": files}),
    ):
        yield


def real_compiled_events(function: Callable[..., Any], shapes: Shapes, step: str, dtype: torch.dtype) -> Events:
    """What PyTorch's allocator saw in two steps of `torch.compile(function)`, compiled by Inductor."""
    import torch._dynamo

    torch._dynamo.reset()
    inputs = {name: torch.randn(shape).to(dtype).requires_grad_(step == "train") for name, shape in shapes.items()}
    compiled = torch.compile(function, dynamic=False)
    upstream: list[torch.Tensor] = []

    def once() -> None:
        with torch.set_grad_enabled(step == "train"):
            out = compiled(**inputs)
        if step == "train":
            if not upstream and out.dim():
                upstream.append(torch.ones(out.shape, dtype=out.dtype))
            out.backward(*upstream)
        del out
        for x in inputs.values():
            x.grad = None

    return real_steps(once)


def real_steps(once: Callable[[], object]) -> Events:
    """What PyTorch's allocator saw in the third and fourth step of compiled code."""
    import torch._dynamo

    once()
    once()
    gc.collect()
    found = cpu_events.profiled(lambda: (once(), once()))
    torch._dynamo.reset()
    return without_random_state(found)


def without_random_state(events: Iterable[MemoryEvent]) -> Events:
    """Without seeds (8 bytes, which a profile takes for numbers) and states of the CPU's random generator."""
    dropped = {8, torch.get_rng_state().numel()}
    kept = Numbering()
    for kind, number, nbytes in events:
        if nbytes not in dropped and kind == "alloc":
            kept.birth(number, nbytes)
        elif kind == "free":
            kept.death(number)
    return in_order(kept.events)


def planned_events(function: Callable[..., Any], shapes: Shapes, step: str, dtype: torch.dtype) -> Events:
    """The same from a trace planned for the CPU, without its inputs."""
    found = planned_run(function, shapes, step, dtype).traced.program
    start = next(i for i, e in enumerate(found.events) if isinstance(e, Mark) and e.phase == "forward")
    return events_since(found, start)


def events_since(program: Program, start: int) -> Events:
    """The events from a place on, of storages that were born there."""
    born = {e.key for e in program.events[start:] if isinstance(e, Alloc)}
    kept = [e for e in program.events[start:] if isinstance(e, Launch | Mark) or e.key in born]
    return without_random_state(program_events(Program(kept, {}, {})))


def planned_run(
    function: Callable[..., Any], shapes: Shapes, step: str, dtype: torch.dtype, iterations: int = 2
) -> Compiled:
    """A trace of some steps planned for the CPU."""
    named = str(dtype).removeprefix("torch.")
    inputs = inputs_of([f"{name}={','.join(map(str, shape))}:{named}" for name, shape in shapes.items()])
    return traced_compiled(Setting(function, inputs, step, CPU, iterations=iterations), {}, Chip())

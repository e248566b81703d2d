"""Events of a traced run beside those of PyTorch's CPU allocator and of recording tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memmodel import recording
from memmodel.program import Program
from memmodel.recording.device import Device
from memmodel.tracer.attention import Backends
from memmodel.tracer.functions import Functions
from memmodel.tracer.patches import Hooks, patched
from memmodel.tracer.watch import Watcher
from memmodel_validate.events import in_order, program_events

Body = Callable[[Any], object]
Events = list[tuple[str, int, int]]


def events(program: Program) -> Events:
    return in_order(program_events(program))


def traced_events(body: Body, device: Device) -> Events:
    """The events of `body(torch)` on fake tensors, which it makes itself."""
    watcher = Watcher(device)
    functions = Functions(watcher, Backends())

    def begins(_: Any) -> None:
        watcher.backward = True

    def ends() -> None:
        watcher.backward = False

    with patched(Hooks(begins, ends, functions)), FakeTensorMode(), watcher, functions:
        body(torch)
    return events(watcher.program)


def recorded(body: Body, device: Device) -> Events:
    with recording.Tape(device) as tape:
        body(recording)
    return events(tape.program)

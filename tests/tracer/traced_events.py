"""Events of a traced run beside those of PyTorch's CPU allocator and of recording tensors."""

from collections.abc import Callable
from typing import Any

import torch

from memmodel import recording
from memmodel.base.device import Device
from memmodel.events.program import Program
from memmodel.tracer.watch.watcher import Watcher
from memmodel.tracer.watch.watching import watching
from memmodel_validate.events import in_order, program_events

Body = Callable[[Any], object]
Events = list[tuple[str, int, int]]


def events(program: Program) -> Events:
    return in_order(program_events(program))


def traced_program(body: Body, device: Device) -> Program:
    """The program of `body(torch)` on fake tensors, which it makes itself."""
    watcher = Watcher(device)
    with watching(watcher):
        body(torch)
    return watcher.program


def traced_events(body: Body, device: Device) -> Events:
    return events(traced_program(body, device))


def recorded_program(body: Body, device: Device) -> Program:
    with recording.Tape(device) as tape:
        body(recording)
    return tape.program

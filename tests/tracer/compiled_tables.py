"""Recorded scripts under torch.compile, run on Inductor's plans for the recorded GPU."""

from contextlib import ExitStack
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memmodel.base.device import CUDA
from memmodel.events.program import Program
from memmodel.gpus import load_gpu
from memmodel.rules.sdpa import Backends
from memmodel.tracer.compiled.compiler import Compiler
from memmodel.tracer.compiled.run import watched_backward
from memmodel.tracer.compiled.watching import PlanWatcher
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.private.compiler import fresh_dynamo
from memmodel.tracer.watch.functions import Functions
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.memory import Printed, compute_capability, numbers, replayed_row, row_of
from memmodel_evidence.records import tables
from memmodel_validate.ledger import Run, Source

FACTORIES = ("randn", "ones", "empty", "arange")
REPEATS_BACKWARD = (
    "yyin-compiled",
    "yyin-compiled-tf32",
    "wedsonlin-compiled",
)  # which PyTorch allows without donated buffers alone


class OnTheCpu:
    """torch, whose factories leave the device out."""

    __name__ = "torch"

    def __getattr__(self, name: str) -> Any:
        made = getattr(torch, name)
        if name not in FACTORIES:
            return made
        return lambda *args, device=None, **kwargs: made(*args, **kwargs)


def compiled_program(run: Run) -> Program:
    """The events of a row's script, its attention compiled by the installed PyTorch for the row's GPU."""
    import torch._functorch.config

    table = tables()[run.source]
    harness: Any = HARNESSES[run.source]
    attention = harness.keywords["attention"]
    major, minor = (int(part) for part in table.environment["torch"].split(".")[:2])
    chip = _chip(table)
    watcher = PlanWatcher(CUDA)
    functions = Functions(watcher, Backends(chip.arch, (major, minor)))
    donated = run.source not in REPEATS_BACKWARD

    def begins(_: Any) -> None:
        watcher.backward = True

    def ends() -> None:
        watcher.backward = False

    with fresh_dynamo(), watched_backward(watcher, begins, ends), ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(watcher)
        stack.enter_context(Compiler(watcher, functions, chip).installed())
        stack.enter_context(torch._functorch.config.patch({"donated_buffer": donated}))
        harness(
            OnTheCpu(),
            row_of(run)._replace(warm_up=2, measured=2),
            watcher.mark,
            attention=lambda _, *tensors: attention(torch, *tensors),
        )
        program = watcher.program
        watcher.close()
    return program


def _chip(table: Source) -> Chip:
    """The table's GPU, or one of its compute capability where the source does not say which it was."""
    major, minor = compute_capability(table)
    return Chip(10 * major + minor, load_gpu(table.gpu_id).sm_count) if table.gpu_id else Chip(10 * major + minor)


def compared(run: Run, program: Program) -> list[Printed]:
    """The row's printed numbers beside those of the plans."""
    return list(numbers(run, replayed_row(tables()[run.source], program)))

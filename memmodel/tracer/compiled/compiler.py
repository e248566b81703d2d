"""PyTorch's compiler up to the kernels: what is replaced in it while a trace runs, and put back after it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch

from memmodel.base.errors import UsageError
from memmodel.tracer.compiled import moving
from memmodel.tracer.compiled.plan import Plan
from memmodel.tracer.compiled.watching import PlanWatcher
from memmodel.tracer.compiled.wrapper import callable_of
from memmodel.tracer.private import compiler
from memmodel.tracer.private.chip import Chip, seen_by_inductor
from memmodel.tracer.private.compiler import Places
from memmodel.tracer.private.flex import CPU_IS_NO_OBSTACLE, FLEX_ATTENTION
from memmodel.tracer.private.torch_2_11 import FIRST_TO_FREE, held_tangents
from memmodel.tracer.watch.functions import Functions


class Compiler:
    """PyTorch's compiler, up to the kernels: what Inductor generates is kept as plans of the watcher."""

    def __init__(self, watcher: PlanWatcher, functions: Functions, chip: Chip) -> None:
        self.watcher = watcher
        self.functions = functions
        functions.leave(FLEX_ATTENTION)  # which Inductor has templates for
        self.chip = chip
        self.cuda = watcher.device.name == "cuda"

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, `torch.compile` plans, and what it returns runs the plans.

        Raises UsageError for a PyTorch whose compiler is built otherwise.
        """
        with ExitStack() as stack:
            try:
                self._install(stack)
            except (ImportError, AttributeError) as missing:
                raise UsageError(
                    f"the compiler of PyTorch {torch.__version__} is not the one that is known ({missing}): trace "
                    "compiled code with PyTorch 2.13"
                ) from missing
            yield

    def _install(self, stack: ExitStack) -> None:
        places = compiler.places()
        # Read before anything is replaced, as replacements call what was there.
        replaced = list(self._always(places))
        if self.cuda:
            stack.enter_context(seen_by_inductor(self.chip))
            for where, name, value in moving.methods_of_gpu_tensors():
                stack.enter_context(mock.patch.object(where, name, value, create=True))
            replaced += self._for_gpu(places)
        stack.enter_context(compiler.planning())
        for where, name, value in replaced:
            stack.enter_context(mock.patch.object(where, name, value))

    def _always(self, places: Places) -> Iterator[tuple[Any, str, Any]]:
        """(where, name, what it becomes) of what every trace replaces."""
        yield *places.module, lambda lowered: self._module(lowered)
        # PyTorch's own check compiles a program and loads it (torch/_inductor/cpu_vec_isa.py).
        yield *places.vectors, lambda *_: True
        yield *places.compile_fx, self._compiling(places.compile_fx.now)

    def _for_gpu(self, places: Places) -> Iterator[tuple[Any, str, Any]]:
        """(where, name, what it becomes) of the further replacements for plans for a GPU."""
        yield *places.proxy, moving.requests_on_cpu(places.proxy.now)
        yield *places.joint_passes, self._on_gpu(moving.joint_passes_for_gpu(places.joint_passes.now))
        yield *places.lowering, self._on_gpu(moving.lowering_for_gpu(places.lowering.now))
        yield *places.patterns, moving.TorchOnCpu("torch")
        yield *places.attention, self.functions.attention
        yield CPU_IS_NO_OBSTACLE
        yield from compiler.devices_seen(moving.GPU)
        if self.functions.backends.torch < FIRST_TO_FREE:
            yield from held_tangents()

    def _compiling(self, compile_fx: Callable[..., Any]) -> Callable[..., Any]:
        """`compile_fx`, with PyTorch's functions as on the device that is modelled."""

        def compiled(*args: Any, **kwargs: Any) -> Any:
            before, self.watcher.compiling = self.watcher.compiling, True
            try:
                with ExitStack() as stack:
                    if self.cuda:
                        stack.enter_context(self.functions)
                        for where, name, value in self.functions.replacements():
                            stack.enter_context(mock.patch.object(where, name, value))
                    return compile_fx(*args, **kwargs)
            finally:
                self.watcher.compiling = before

        return compiled

    def _on_gpu(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """A part of Inductor that works on the GPU's tensors: nothing is redirected to the CPU."""

        def done(*args: Any, **kwargs: Any) -> Any:
            before, self.functions.redirects = self.functions.redirects, False
            try:
                return work(*args, **kwargs)
            finally:
                self.functions.redirects = before

        return done

    def _module(self, lowered: Any) -> Any:
        """The module that Inductor would have written to a file, compiled and imported."""
        source, _ = lowered.codegen()
        plan = Plan(lowered, source.value, len(self.watcher.plans))
        self.watcher.plans[plan.file] = plan
        return _Module(callable_of(plan, self.watcher))


class _Module(NamedTuple):
    call: Callable[[list[Any]], Any]
    runner: Any = None

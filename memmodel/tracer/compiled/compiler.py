"""PyTorch's compiler up to the kernels: what is replaced in it while a trace runs, and put back after it."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch

from memmodel.errors import UsageError
from memmodel.tracer.compiled import moving
from memmodel.tracer.compiled.chip import Chip, seen_by_inductor
from memmodel.tracer.compiled.plan import Plan
from memmodel.tracer.compiled.watching import PlanWatcher
from memmodel.tracer.compiled.wrapper import callable_of
from memmodel.tracer.watch.functions import Functions

_FREES_TANGENTS = (2, 12)  # the first with github.com/pytorch/pytorch/pull/177837


@contextmanager
def fresh_dynamo() -> Iterator[None]:
    """Nothing compiled before is used, nothing compiled within stays, and files go to a folder that goes away."""
    with ExitStack() as stack:
        files = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": files}))
        import torch._dynamo  # which makes that folder

        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)  # what goes wrong is told in the error
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        stack.callback(torch._dynamo.reset)
        torch._dynamo.utils.counters.clear()
        torch._dynamo.trace_rules.add("memmodel.tracer")
        yield


class Compiler:
    """PyTorch's compiler, up to the kernels: what Inductor generates is kept as plans of the watcher."""

    def __init__(self, watcher: PlanWatcher, functions: Functions, chip: Chip) -> None:
        self.watcher = watcher
        self.functions = functions
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
        import torch._dynamo.config
        import torch._functorch.config
        import torch._inductor.config

        if self.cuda:
            stack.enter_context(seen_by_inductor(self.chip))
            for where, name, value in moving.methods_of_gpu_tensors():
                stack.enter_context(mock.patch.object(where, name, value, create=True))
        for config, wanted in ((torch._inductor, _INDUCTOR), (torch._functorch, _FUNCTORCH), (torch._dynamo, _DYNAMO)):
            stack.enter_context(config.config.patch(_known(config.config, wanted)))
        for where, name, value in (*self._always(), *(self._for_gpu() if self.cuda else ())):
            stack.enter_context(mock.patch.object(where, name, value))

    def _always(self) -> Iterator[tuple[Any, str, Any]]:
        """(where, name, what it becomes) of what every trace replaces."""
        from torch._inductor import compile_fx, cpu_vec_isa
        from torch._inductor.graph import GraphLowering

        yield GraphLowering, "compile_to_module", lambda lowered: self._module(lowered)
        yield cpu_vec_isa.VecISA, "check_build", lambda *_: True
        yield compile_fx, "compile_fx", self._compiling(compile_fx.compile_fx)

    def _for_gpu(self) -> Iterator[tuple[Any, str, Any]]:
        """The same for plans for a GPU."""
        from torch._dynamo.output_graph import SubgraphTracer
        from torch._inductor import compile_fx, pattern_matcher
        from torch._inductor.fx_passes import fuse_attention

        passes = moving.joint_passes_for_gpu(compile_fx._recursive_joint_graph_passes)
        lowering = moving.lowering_for_gpu(compile_fx.fx_codegen_and_compile)
        yield SubgraphTracer, "create_proxy", moving.requests_on_cpu(SubgraphTracer.create_proxy)
        yield compile_fx, "_recursive_joint_graph_passes", self._on_gpu(passes)
        yield compile_fx, "fx_codegen_and_compile", self._on_gpu(lowering)
        yield pattern_matcher, "torch", moving.TorchOnCpu("torch")
        yield fuse_attention, "_scaled_dot_product_attention", self.functions.attention
        yield from moving.places()
        if self.functions.backends.torch < _FREES_TANGENTS:
            yield from _held_tangents()

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
        """What Inductor would have written to a file, compiled and imported."""
        source, _ = lowered.codegen()
        plan = Plan(lowered, source.value, len(self.watcher.plans))
        self.watcher.plans[plan.file] = plan
        return _Module(callable_of(plan, self.watcher))


class _Module(NamedTuple):
    call: Callable[[list[Any]], Any]
    runner: Any = None


# No files, no worker processes, no benchmarks: pad_mm and autotuning would time kernels.
_INDUCTOR = {
    "fx_graph_cache": False,
    "fx_graph_remote_cache": False,
    "autotune_local_cache": False,
    "autotune_remote_cache": False,
    "bundle_triton_into_fx_graph_cache": False,
    "compile_threads": 1,
    "shape_padding": False,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "triton.cudagraphs": False,
}
_FUNCTORCH = {"enable_autograd_cache": False, "enable_remote_autograd_cache": False, "bundled_autograd_cache": False}
_DYNAMO = {"inline_torch_dispatch_torch_compile": False, "automatic_dynamic_local_pgo": False, "suppress_errors": False}


def _known(config: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this PyTorch has."""
    return {key: value for key, value in wanted.items() if key in config._config}


def _held_tangents() -> Iterator[tuple[Any, str, Any]]:
    """Incoming gradients live until a compiled backward ends, as before they were handed over in a list."""
    called = torch.autograd.function.BackwardCFunction
    boxed = getattr(called, "apply_boxed", None)

    def applied(self: Any, tangents: Any) -> Any:
        held = list(tangents)
        result = boxed(self, tangents)  # type: ignore[misc]
        del held
        return result

    if boxed is not None:
        yield called, "apply_boxed", applied

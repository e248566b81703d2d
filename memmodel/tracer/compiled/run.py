"""One traced run of `torch.compile(function)`: compiled at the first step, read at the later ones."""

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memmodel.errors import UsageError, unknown
from memmodel.program import Alloc, Free, Mark, Program
from memmodel.tracer import run as eager
from memmodel.tracer.compiled import moving
from memmodel.tracer.compiled.chip import Chip, seen_by_inductor
from memmodel.tracer.compiled.plan import Plan
from memmodel.tracer.compiled.summary import Graphs
from memmodel.tracer.compiled.watching import PlanWatcher
from memmodel.tracer.compiled.wrapper import callable_of
from memmodel.tracer.failures import told_as_theirs
from memmodel.tracer.functions import Functions
from memmodel.tracer.modules import made_fake
from memmodel.tracer.patches import Hooks, no_autocast, watched_engine
from memmodel.tracer.run import STEPS, Setting, Traced

_PLACE = re.compile(r'File "([^"]+)", line (\d+), in ')
_INNER = re.compile(r": got (?P<what>\w+\(.*\))$", re.MULTILINE)  # dynamo's words for an operator's own error
_FREES_TANGENTS = (2, 12)  # the first with github.com/pytorch/pytorch/pull/177837
_STEPS = 3  # the last is read


class Compiled(NamedTuple):
    """A traced run of compiled code, and its plans in the order of compilation."""

    traced: Traced
    plans: tuple[Plan, ...]
    graphs: Graphs


def steady_compiled(setting: Setting, sizes: Mapping[str, int], chip: Chip) -> tuple[Traced, Graphs]:
    """The last of three steps after the one that compiled; all of them where a step leaves something behind.

    Raises UsageError for code that torch.compile cannot compile, or of which it compiles nothing.
    """
    check_version()
    found = traced_compiled(setting._replace(iterations=_STEPS), sizes, chip)
    if not found.plans:
        raise UsageError("torch.compile compiles nothing of it: trace it without compiled")
    return found.traced._replace(program=_last_steps(found.traced.program, 1)), found.graphs


def traced_compiled(setting: Setting, sizes: Mapping[str, int], chip: Chip) -> Compiled:
    """Run the compiled step on fake tensors of these sizes, on the CPU's or, for CUDA, on that GPU's plans."""
    if setting.step not in STEPS:
        raise unknown("step", setting.step, STEPS)
    watcher = PlanWatcher(setting.device)
    run = _Run(setting, watcher)
    functions = Functions(watcher, setting.backends)
    compiler = _Compiler(watcher, functions, chip)
    with told_as_theirs(), _told_as_the_compilers(), _fresh_dynamo(), ExitStack() as stack:
        stack.enter_context(_watched_backward(run))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(watcher)
        stack.enter_context(compiler.installed())
        watcher.mark("inputs")
        stack.enter_context(made_fake(setting.function, watcher))
        run.prepare(sizes)
        with torch.set_grad_enabled(setting.step != "inference"):
            for _ in range(1 + setting.iterations):
                run.step()
        breaks = tuple(_first_line(reason) for reason in torch._dynamo.utils.counters["graph_break"])
        program = watcher.program
        watcher.close()
    found = Traced(
        _last_steps(program, setting.iterations), watcher.unknown, watcher.operators, {}, watcher.forward_of
    )
    plans = tuple(watcher.plans.values())
    return Compiled(found, plans, Graphs(tuple(plan.summary() for plan in plans), breaks))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


class _Run(eager._Run):
    """The step of the compiled function."""

    def prepare(self, sizes: Mapping[str, Any]) -> None:
        super().prepare(sizes)
        self.function = torch.compile(self.function, dynamic=False)


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


def _last_steps(program: Program, steps: int) -> Program:
    """Without the step that compiled, where that step left nothing behind."""
    marks = [i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward"]
    first, kept = marks[0], marks[-steps]
    dropped = program.events[first:kept]
    born, dead = ({e.key for e in dropped if isinstance(e, kind)} for kind in (Alloc, Free))
    return program._replace(events=program.events[:first] + program.events[kept:]) if born == dead else program


@contextmanager
def _told_as_the_compilers() -> Iterator[None]:
    """Within, what dynamo, AOTAutograd and Inductor raise says so."""
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
    from torch._inductor.exc import InductorError

    try:
        yield
    except (BackendCompilerFailed, TorchDynamoException, InductorError) as error:
        raise _told(error) from error


def _told(error: BaseException) -> UsageError:
    """The compiler's error as one sentence with the user's line; a UsageError inside it as it is."""
    causes = list(_causes(error))
    own = next((cause for cause in causes if isinstance(cause, UsageError)), None)
    if own is not None:
        return own
    text = str(error)
    places = _PLACE.findall(text)
    where = " at {}, line {}".format(*places[-1]) if places else ""
    inner = _INNER.search(text)
    said = inner["what"] if inner else f"{type(causes[-1]).__name__}: {_first_line(str(causes[-1]))}"
    if "UsageError: " in said:
        return UsageError(said.partition("UsageError: ")[2] + where)
    return UsageError(
        f"torch.compile cannot compile the code{where} ({said}): trace it without compiled, or leave this part to "
        "eager code with torch.compiler.disable"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__


@contextmanager
def _fresh_dynamo() -> Iterator[None]:
    """Nothing compiled before is used, and nothing compiled within stays."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch._dynamo.trace_rules.add("memmodel.tracer")
    silenced = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what goes wrong is told in the error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(silenced)
        torch._dynamo.reset()


@contextmanager
def _watched_backward(run: _Run) -> Iterator[None]:
    """Phases are seen; autograd's engine also runs while PyTorch compiles, which is no phase."""

    def begins(roots: Any) -> None:
        if not run.watcher.compiling:
            run.backward_begins(roots)

    def ends() -> None:
        if not run.watcher.compiling:
            run.backward_ends()

    autocast = torch.amp.autocast_mode.autocast
    hooks = Hooks(begins, ends, nullcontext())
    with (
        mock.patch.object(torch.autograd, "_engine_run_backward", watched_engine(hooks)),
        mock.patch.object(autocast, "__init__", no_autocast(autocast.__init__)),
    ):
        yield


class _Compiler:
    """PyTorch's compiler, up to the kernels: what Inductor generates is kept as plans of the watcher."""

    def __init__(self, watcher: PlanWatcher, functions: Functions, chip: Chip) -> None:
        self.watcher = watcher
        self.functions = functions
        self.chip = chip
        self.cuda = watcher.device.name == "cuda"

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, `torch.compile` plans, and what it returns runs the plans."""
        import torch._dynamo.output_graph
        import torch._functorch.config
        import torch._inductor.compile_fx as compile_fx
        import torch._inductor.config as inductor
        from torch._inductor import cpu_vec_isa, pattern_matcher
        from torch._inductor.fx_passes import fuse_attention
        from torch._inductor.graph import GraphLowering

        replaced: list[tuple[Any, str, Any]] = [
            (GraphLowering, "compile_to_module", lambda lowered: self._module(lowered)),
            (cpu_vec_isa.VecISA, "check_build", lambda *_: True),
            (compile_fx, "compile_fx", self._compiling(compile_fx.compile_fx)),
        ]
        if self.cuda:
            tracer = torch._dynamo.output_graph.SubgraphTracer
            passes = moving.joint_passes_for_gpu(compile_fx._recursive_joint_graph_passes)
            lowering = moving.lowering_for_gpu(compile_fx.fx_codegen_and_compile)
            replaced += [
                (tracer, "create_proxy", moving.requests_on_cpu(tracer.create_proxy)),
                (compile_fx, "_recursive_joint_graph_passes", self._on_gpu(passes)),
                (compile_fx, "fx_codegen_and_compile", self._on_gpu(lowering)),
                (pattern_matcher, "torch", moving.TorchOnCpu("torch")),
                (fuse_attention, "_scaled_dot_product_attention", self.functions.attention),
            ]
            replaced += [*moving.methods_of_gpu_tensors(), *moving.places()]
            if self.functions.backends.torch < _FREES_TANGENTS:
                replaced += _held_tangents()
        with ExitStack() as stack:
            files = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": files}))
            if self.cuda:
                stack.enter_context(seen_by_inductor(self.chip))
            stack.enter_context(inductor.patch(_known(inductor, _INDUCTOR)))
            stack.enter_context(torch._functorch.config.patch(_known(torch._functorch.config, _FUNCTORCH)))
            stack.enter_context(torch._dynamo.config.patch(_known(torch._dynamo.config, _DYNAMO)))
            for where, name, value in replaced:
                stack.enter_context(mock.patch.object(where, name, value, create=True))
            yield

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


def check_version() -> None:
    """Raises UsageError where this PyTorch lacks what is needed."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 11):
        raise UsageError(f"a trace of compiled code needs PyTorch 2.11 or newer; this is {torch.__version__}")

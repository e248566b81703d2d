"""One traced run of `torch.compile(function)`: compiled at the first step, read at the later ones."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest import mock

import torch

from memmodel.base.errors import UsageError, unknown
from memmodel.events.liveness import alive_at
from memmodel.events.program import Mark, Program
from memmodel.tracer.compiled.compiler import Compiler
from memmodel.tracer.compiled.errors import compiler_errors_explained, first_line
from memmodel.tracer.compiled.plan import Plan
from memmodel.tracer.compiled.summary import Graphs
from memmodel.tracer.compiled.watching import PlanWatcher
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.private.compiler import fresh_dynamo, fused_attention, graph_breaks
from memmodel.tracer.private.fake import FakeTensorMode
from memmodel.tracer.private.patches import no_autocast, watched_engine
from memmodel.tracer.watch import run as eager
from memmodel.tracer.watch.failures import users_errors_explained
from memmodel.tracer.watch.functions import Functions
from memmodel.tracer.watch.modules import made_fake
from memmodel.tracer.watch.run import STEPS, Setting, Traced

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
    found = traced_compiled(setting._replace(iterations=_STEPS), sizes, chip)
    if not found.plans:
        raise UsageError(f"torch.compile (of PyTorch {torch.__version__}) compiles nothing of it: trace it without it")
    return found.traced._replace(program=_last_steps(found.traced.program, 1)), found.graphs


def traced_compiled(setting: Setting, sizes: Mapping[str, int], chip: Chip) -> Compiled:
    """Run the compiled step on fake tensors of these sizes, on the CPU's or, for CUDA, on that GPU's plans."""
    if setting.step not in STEPS:
        raise unknown("step", setting.step, STEPS)
    with fresh_dynamo(), users_errors_explained(), compiler_errors_explained(), ExitStack() as stack:
        watcher = PlanWatcher(setting.device)
        run = Run(setting, watcher)
        stack.enter_context(watched_backward(watcher, run.backward_begins, run.backward_ends))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        # The compiler is imported already, so that nothing is to be kept from importing it (see `fake_mode`).
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(watcher)
        stack.enter_context(Compiler(watcher, Functions(watcher, setting.backends), chip).installed())
        watcher.mark("inputs")
        stack.enter_context(made_fake(setting.function, watcher))
        run.prepare(sizes)
        with torch.set_grad_enabled(setting.step != "inference"):
            # The first step compiles.
            for _ in range(1 + setting.iterations):
                run.step()
        breaks, fused = tuple(map(first_line, graph_breaks())), fused_attention()
        program = watcher.program
        watcher.close()
    found = Traced(
        _last_steps(program, setting.iterations),
        watcher.unknown,
        watcher.operators,
        {},
        watcher.forward_of,
        watcher.owners,
        tuple(watcher.notes),
        watcher.choices,
    )
    plans = tuple(watcher.plans.values())
    return Compiled(found, plans, Graphs(tuple(plan.summary() for plan in plans), breaks, fused))


class Run(eager.Run):
    """The step of the compiled function."""

    def prepare(self, sizes: Mapping[str, Any]) -> None:
        """Make the inputs, and pass the function to torch.compile."""
        super().prepare(sizes)
        self.function = torch.compile(self.function, dynamic=False)


def _last_steps(program: Program, steps: int) -> Program:
    """Without the step that compiled, where that step left nothing behind."""
    marks = [i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward"]
    first, kept = marks[0], marks[-steps]
    if alive_at(program, first).keys() != alive_at(program, kept).keys():
        return program
    return program._replace(events=program.events[:first] + program.events[kept:])


@contextmanager
def watched_backward(watcher: PlanWatcher, begins: Callable[[Any], None], ends: Callable[[], None]) -> Iterator[None]:
    """Phases are seen; autograd's engine also runs while PyTorch compiles, which is no phase."""

    def begun(roots: Any) -> None:
        if not watcher.compiling:
            begins(roots)

    def ended() -> None:
        if not watcher.compiling:
            ends()

    autocast = torch.amp.autocast_mode.autocast
    with (
        mock.patch.object(torch.autograd, "_engine_run_backward", watched_engine(begun, ended, nullcontext())),
        mock.patch.object(autocast, "__init__", no_autocast(autocast.__init__)),
    ):
        yield

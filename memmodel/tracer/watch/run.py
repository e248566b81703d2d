"""One traced run: fake inputs, the user's function, backward, and the marks between them."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memmodel.base.device import Device
from memmodel.base.errors import UsageError, unknown
from memmodel.events.program import Event, Mark, Program, Release, Save, Site
from memmodel.rules.sdpa import Backends, Choice
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.private.dispatch import tensors_in
from memmodel.tracer.private.fake import FakeTensorMode
from memmodel.tracer.private.patches import saved_tensors
from memmodel.tracer.specs import Input
from memmodel.tracer.target import Script
from memmodel.tracer.watch.alike import AlikeLayers, Building, alike_layers, with_layers
from memmodel.tracer.watch.failures import users_errors_explained
from memmodel.tracer.watch.known import given_as
from memmodel.tracer.watch.loss import leaves_of, roots_of
from memmodel.tracer.watch.modules import made_fake, name_held, note_cpu
from memmodel.tracer.watch.once_more import Again
from memmodel.tracer.watch.owners import Owners
from memmodel.tracer.watch.watcher import MOST_OPERATORS, Watcher, run_users_code
from memmodel.tracer.watch.watching import watching
from memmodel.tracer.watch.world import World, in_world

# Assumptions under which Hugging Face's code takes its usual branches.
_MASK = "a mask that is an input hides nothing"
_TOKENS = "tokens that are an input are no special ones, such as padding"
STEPS = ("inference", "forward", "train", "own")


class Setting(NamedTuple):
    """A function to trace and how it runs, without the sizes.

    Attributes:
        function: the user's, or a `Script` that has it. inputs: what it takes. step: one of `STEPS`.
        device: whose allocations.
        backends: what decides between attention's kernels. iterations: how often the step runs;
            `until_it_repeats`: no more where one leaves nothing behind.
        most_operators: a run of more is given up. loss: the result that backward starts from, by name.
        world: the rank that runs it, None for one GPU alone.
        layers: its alike layers, and how many of them stay.
        chip: the GPU that the code sees. otherwise: whether branches on values go the other way.
    """

    function: Any
    inputs: tuple[Input, ...]
    step: str
    device: Device
    backends: Backends = Backends()
    iterations: int = 1
    most_operators: int = MOST_OPERATORS
    loss: str = ""
    world: World | None = None
    until_it_repeats: bool = False
    layers: AlikeLayers = AlikeLayers()
    chip: Chip = Chip()
    otherwise: bool = False


class Traced(NamedTuple):
    """A traced run.

    Attributes:
        program: its events. unknown: operator -> what is not known about it. operators: how many there were.
        last_use: storage -> place among the events where an operator last touched it.
        forward_of: storage made in backward -> the line whose backward it is.
        owners: which parameter each storage and kernel comes from.
        notes: what to know about how the code was taken.
        choices: the kernels that attention takes, and where.
        host_peak_bytes: of copies on the host, at most. branched: whether a branch depends on a value.
    """

    program: Program
    unknown: dict[str, str]
    operators: int
    last_use: dict[int, int]
    forward_of: dict[int, Site]
    owners: Owners
    notes: tuple[str, ...] = ()
    choices: Sequence[tuple[Choice, Site | None]] = ()
    host_peak_bytes: int = 0
    branched: bool = False


def loaded_layers(setting: Setting) -> AlikeLayers:
    """The alike layers of a function; a script is loaded for it."""
    if not isinstance(setting.function, Script):
        return alike_layers(setting.function)
    with _watched(setting) as run:
        return run.building.layers(run.function)


def traced(setting: Setting, sizes: Mapping[str, Any], mode: FakeTensorMode | None = None) -> Traced:
    """Run the step on fake tensors of these sizes: ints, or symbols of `mode`'s shape environment."""
    if setting.step not in STEPS:
        raise unknown("step", setting.step, STEPS)
    with _watched(setting, mode) as run:
        watcher = run.watcher
        run.prepare(sizes)
        with torch.set_grad_enabled(setting.step != "inference"):
            for _ in range(setting.iterations):
                run.step()
                twin = _twin(setting.world, watcher) if run.steps == 1 else None
                if twin is not None:
                    return twin
                # A rank takes two steps at least: in the first, FSDP2 and DistributedDataParallel set themselves up.
                if setting.until_it_repeats and run.steps > (setting.world is not None) and run.repeats():
                    break
        found = Traced(
            watcher.program,
            watcher.unknown,
            watcher.operators,
            watcher.uses,
            watcher.forward_of,
            watcher.owners,
            tuple(watcher.notes),
            watcher.choices,
            watcher.host.peak_bytes,
            watcher.branched,
        )
    if watcher.used_elsewhere:
        raise UsageError(
            "the code uses tensors in a thread of its own, which a trace does not see: call what it does directly"
        )
    if setting.until_it_repeats and run.steps == 2:
        found = _with_a_third_step(found, watcher.last_key)
    for runs in setting.world.runs if setting.world else ():
        runs.append(found)
    return found


@contextmanager
def _watched(setting: Setting, mode: FakeTensorMode | None = None) -> Iterator["Run"]:
    """Within, the function runs watched, of which the script is loaded."""
    watcher = Watcher(setting.device, setting.most_operators)
    watcher.otherwise = setting.otherwise
    run = Run(setting, watcher)
    chip = setting.chip if setting.world is None else setting.world.seen(setting.chip)
    with users_errors_explained(), ExitStack() as stack:
        stack.enter_context(in_world(setting.world, watcher))
        stack.enter_context(watching(watcher, setting.backends, mode, run.backward_begins, run.backward_ends, chip))
        watcher.mark("inputs")
        stack.enter_context(watcher.belonging.watching())
        # Before parameters become fake and inputs: layers that are left out are neither.
        stack.enter_context(with_layers(setting.function, setting.layers.kept))
        stack.enter_context(made_fake(setting.function, watcher))
        note_cpu(setting.function, watcher)
        stack.callback(watcher.close)
        run.load()
        yield run


def _twin(world: World | None, watcher: Watcher) -> Traced | None:
    """The run of a rank before that made the same events up to here, its first step's: this rank goes on like it."""
    events = watcher.program.events
    for run in (run for runs in (world.runs if world else ()) for run in runs):
        theirs: Sequence[Event] = run.program.events
        if theirs[: len(events)] == events and theirs[len(events) :][:1] in ([], [Mark("forward")]):
            twin: Traced = run
            return twin
    return None


def _with_a_third_step(found: Traced, last_key: int) -> Traced:
    """The run with its second step once more: the first fills caches, and the allocator takes two to settle."""
    again = Again(found.program, last_key)
    again.note_owners(found.owners)
    return found._replace(
        program=again.program, last_use=again.uses(found.last_use), forward_of=again.of_both(found.forward_of)
    )


class Run:
    """The state of one run. Only `arguments`, `upstream` and the user's own names hold tensors between steps."""

    def __init__(self, setting: Setting, watcher: Watcher) -> None:
        self.setting = setting
        self.watcher = watcher
        self.arguments: dict[str, Tensor] = {}
        self.upstream: list[Tensor] = []
        self.function: Callable[..., Any] = setting.function
        self.inputs_end = 0
        self.backwards = 0  # of this step
        self.steps = 0
        self.building = Building(watcher, setting.layers)
        self._before: frozenset[int] = frozenset()

    def load(self) -> None:
        """Run a script as far as its function."""
        if isinstance(self.function, Script):
            with self.building.watched():
                self.function = run_users_code(self.function.load, {})
            name_held(self.function, self.watcher)

    def prepare(self, sizes: Mapping[str, Any]) -> None:
        """Make the inputs, and the module where a class of modules is traced."""
        if inspect.isclass(self.function) and issubclass(self.function, torch.nn.Module):
            self.function = _made(self.function)
        if isinstance(self.function, torch.nn.Module):
            for name, tensor in (*self.function.named_parameters(), *self.function.named_buffers()):
                self.watcher.name_input(tensor, name)
                self.watcher.belonging.parameter(tensor)
        for given in self.setting.inputs:
            self.arguments[given.name] = self._input(given, sizes)
        self.arguments = bound(self.function, self.arguments)
        self.inputs_end = len(self.watcher.events)

    def _input(self, given: Input, sizes: Mapping[str, Any]) -> Tensor:
        wanted = given.grad
        if wanted is None:
            wanted = self.setting.step in ("forward", "train") and given.dtype.is_floating_point
        tensor = torch.empty(given.shape(sizes), dtype=given.dtype, requires_grad=wanted)
        if given.dtype in (torch.int64, torch.int32):
            of_mask = "mask" in given.name
            # No vocabulary has a token -1, so that none of them equals one that pads or ends.
            given_as(tensor, 1 if of_mask else -1, _MASK if of_mask else _TOKENS)
        self.watcher.name_input(tensor, given.name, given=True)
        return tensor

    def step(self) -> None:
        """One step, marked, after which nothing of it is left but what the user's code keeps."""
        watcher = self.watcher
        self.backwards = 0
        self.steps += 1
        self._before = watcher.alive()
        watcher.mark("forward")
        out = run_users_code(self.function, self.arguments)
        if inspect.iscoroutine(out):
            # Else Python warns that it was never awaited.
            out.close()
            raise UsageError("the function is a coroutine (async def), which a trace does not run: trace a plain one")
        if inspect.isgenerator(out):
            raise UsageError("the function is a generator (yield), whose call runs nothing: trace what consumes it")
        if self.setting.step == "train":
            self._backward(out)
        elif self.setting.step == "forward":
            # No backward runs: this notes what it would find saved.
            self.backward_begins(leaves_of(out), mark=False)
        # The result dies after the step, as it would with a caller that drops it.
        watcher.mark("after")
        self._release()
        del out
        if self.setting.step != "own":
            self._forget_gradients()

    def repeats(self) -> bool:
        """Whether the last step left nothing behind and took nothing away: then the next one is the same."""
        return self.watcher.alive() == self._before

    def _backward(self, out: Any) -> None:
        roots, note = roots_of(out, self.setting.loss)
        self.watcher.note(note)
        # Of a scalar, PyTorch makes the gradient (one) itself; of a tensor, the next layer hands it over.
        if not any(x.dim() for x in roots):
            torch.autograd.backward(roots)
            return
        if not self.upstream:
            self.upstream = [self._upstream(x, f"dout{i or ''}") for i, x in enumerate(roots)]
        torch.autograd.backward(roots, self.upstream)

    def _upstream(self, out: Tensor, name: str) -> Tensor:
        """The gradient that the next layer would hand over: alive all along, so it is born among the inputs."""
        with self.watcher.unseen():
            gradient = torch.empty_like(out, memory_format=torch.contiguous_format)
        key = self.watcher.born(gradient, "empty", "input", at=self.inputs_end)
        self.inputs_end += 1
        if key is not None:
            self.watcher.names[key] = name
            # It stays from step to step without having been left behind by one.
            self._before |= {key}
        return gradient

    def backward_begins(self, roots: Sequence[Any], mark: bool = True) -> None:
        """Autograd is about to run: note what it kept."""
        watcher = self.watcher
        watcher.belonging.kept |= watcher.alive()  # also what checkpoints hold, which no node saves
        with watcher.unseen():
            found = [(watcher.key_of(x), node) for node, x in saved_tensors(roots)]
        for key, node in found:
            if key is not None:
                watcher.saved.setdefault(key, []).append(node)
                watcher.events.append(Save(key, node))
        if mark:
            self._mark_backward()
        watcher.backward = True

    def _mark_backward(self) -> None:
        """A step's phases are its first forward, then all until its last backward is over, then the optimizer."""
        if self.backwards:
            self.watcher.unmark("optimizer")
        else:
            self.watcher.mark("backward")
        self.backwards += 1

    def backward_ends(self) -> None:
        """Autograd is done: what follows is the optimizer's, in a step that the user writes."""
        self._release()
        with self.watcher.unseen():
            self._name_gradients()
        if self.setting.step == "own":
            self.watcher.mark("optimizer")

    def _release(self) -> None:
        self.watcher.backward = False
        for key, nodes in self.watcher.saved.items():
            self.watcher.events += [Release(key, node) for node in nodes]
        self.watcher.saved = {}

    def _leaves(self) -> Iterator[Tensor]:
        yield from tensors_in(self.arguments)
        if isinstance(self.function, torch.nn.Module):
            yield from self.function.parameters()
        yield from self.watcher.leaves
        yield from self.watcher.belonging.parameters()

    def _name_gradients(self) -> None:
        for leaf in self._leaves():
            if leaf.is_leaf and leaf.grad is not None:
                key, of = self.watcher.key_of(leaf.grad), self.watcher.key_of(leaf)
                if key is not None and of is not None:
                    self.watcher.gradients[key] = of

    def _forget_gradients(self) -> None:
        for leaf in self._leaves():
            if leaf.is_leaf:
                leaf.grad = None


def _made(kind: Any) -> Any:
    """An instance of a class of modules."""
    parameters = inspect.signature(kind).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in plain]
    if needed:
        raise UsageError(
            f"{kind.__name__} is a class whose instances need {', '.join(needed)}: name an instance, or a function "
            "that makes and calls one"
        )
    return kind()


def bound(function: Callable[..., Any], arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs under the names of the function's parameters: by name, or in order where the names differ."""
    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # a builtin that does not say
        return arguments
    positional = [
        name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY)
    ]
    required = [n for n in positional if parameters[n].default is inspect.Parameter.empty]
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if set(arguments) <= set(positional) or anything:
        missing = [n for n in required if n not in arguments]
    else:
        names = positional[: len(arguments)]
        missing = required[len(arguments) :]
        if len(arguments) <= len(positional):
            arguments = dict(zip(names, arguments.values(), strict=True))
        else:
            missing = [""]
    if missing:
        name = getattr(function, "__name__", type(function).__name__)
        if any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
            raise UsageError(f"{name} takes inputs without names (*): trace a function that names them and calls it")
        raise UsageError(
            f"{name}({', '.join(positional)}) is given {', '.join(arguments) or 'no inputs'}: expected one input for "
            f"each of {', '.join(required) or 'none'}; what is no tensor needs a default or a function around it"
        )
    return arguments

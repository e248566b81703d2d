"""`memmodel.trace`: from a function and its inputs to memory, lines, formulas, work and advice."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from memmodel.allocator import AllocatorConfig
from memmodel.case import LARGEST, Size
from memmodel.cublas import DEFAULT_TORCH, parse_torch_version
from memmodel.errors import UsageError
from memmodel.fitting import room_bytes
from memmodel.gpus import Gpu, load_gpu
from memmodel.origin import names
from memmodel.prediction import Time
from memmodel.program import Alloc, Launch, Mark, Program
from memmodel.timeline import account, phase_peaks
from memmodel.timing import Calibration
from memmodel.timing.known import community
from memmodel.tracer.advice import Advice, advice
from memmodel.tracer.attention import Backends
from memmodel.tracer.by_hand import Finder, Rewriter, under
from memmodel.tracer.closed import Forms, closed_forms, last_step
from memmodel.tracer.compiled import Chip, Graphs
from memmodel.tracer.lines import lines_of
from memmodel.tracer.memory import Largest, fits, is_closed, largest, live_peak, memory_of, step_phases, time_of
from memmodel.tracer.repeat import Drawing, check_alike
from memmodel.tracer.result import Trace
from memmodel.tracer.run import Setting, Traced, traced
from memmodel.tracer.scratch import habits, is_shared_scratch
from memmodel.tracer.specs import checked_at, inputs_of, letters_of, parse_at
from memmodel.tracer.symbolic import Symbolic, divides_letters, hints, multiples_among, traced_in_letters
from memmodel.tracer.watch import MOST_OPERATORS
from memmodel.units import bytes_text
from memmodel.work import Work

_MOST_TIED = 6  # letters tried as multiples of another, where the code does not run in letters of their own
_OTHERWISE = "in letters PyTorch allocates otherwise than at these sizes"


@dataclass(frozen=True, slots=True)
class _Job:
    setting: Setting
    sizes: dict[str, int]
    gpu: Gpu
    version: str
    config: AllocatorConfig | None
    compiled: bool = False

    def steady(self) -> tuple[Traced, Graphs | None]:
        """The steady step at the sizes asked for; after torch.compile, with what it compiled."""
        return self._run(self.setting, self.sizes)

    def run(self, setting: Setting, sizes: Mapping[str, int]) -> Traced:
        """The steady step of another function or of other sizes."""
        return self._run(setting, sizes)[0]

    def _run(self, setting: Setting, sizes: Mapping[str, int]) -> tuple[Traced, Graphs | None]:
        if not self.compiled:
            return _steady(setting, sizes), None
        from memmodel.tracer.compiled.run import steady_compiled

        return steady_compiled(setting, sizes, Chip(setting.backends.arch, self.gpu.sm_count))


def trace(
    fn: Callable[..., Any],
    inputs: Any = (),
    *,
    step: str = "inference",
    at: Mapping[str, int] | str | None = None,
    gpu: str | Gpu = "A100",
    torch_version: str | None = None,
    over: str | None = None,
    formulas: bool = True,
    compiled: bool = False,
    config: AllocatorConfig | None = None,
    most_operators: int = MOST_OPERATORS,
) -> Trace:
    """The memory, work and time of a PyTorch function on a GPU, without one, as numbers, by line and in letters.

    The function runs, on tensors that have shapes and no data; whatever else its code does happens too.

    Args:
        fn: a function, lambda or nn.Module.
        inputs: `{"q": "B,H,N,D:bf16", ...}` or `["q=B,H,N,D:bf16", ...]`; letters stand for sizes.
        step: "inference" (nothing kept), "forward" (kept for backward), "train" (forward, and backward from an upstream
            gradient or the scalar loss returned) or "own" (the function runs backward and its optimizer itself).
        at: the sizes that numbers are shown for, `{"N": 16384, ...}`; letters left out get a prime near 100.
        gpu: its name, or a `Gpu`.
        torch_version: whose rules hold; that of the installed one unless given.
        over: a letter whose largest size on the GPU is searched.
        formulas: whether to run it in letters too.
        config: the allocator's settings.
        compiled: whether the function is passed to torch.compile, whose buffers are then those that Inductor plans.
        most_operators: a run of more than so many is given up.

    Raises UsageError for wrong input, and for code that cannot run without data, with the line at fault.
    """
    if not callable(fn):
        raise UsageError(f"trace of {fn!r}: expected a function or a module, and its inputs")
    wanted = inputs_of(inputs)
    letters = letters_of(wanted)
    asked = checked_at(parse_at(at) if isinstance(at, str) else dict(at or {}), letters)
    device = load_gpu(gpu) if isinstance(gpu, str) else gpu
    version = torch_version or _installed()
    major, minor = device.compute_capability or (8, 0)
    backends = Backends(10 * major + minor, parse_torch_version(version))
    sizes = {x: asked.get(x, value) for x, value in hints(letters, asked).items()}
    setting = Setting(fn, wanted, step, habits(device), backends, most_operators=most_operators)
    job = _Job(setting, sizes, device, version, config, compiled)
    if over is not None and over not in letters:
        raise UsageError(f"over {over}: no input has a size {over}; the letters are {', '.join(letters) or 'none'}")
    return _result(job, [x for x in letters if x not in asked], over, formulas)


def _installed() -> str:
    try:
        parse_torch_version(torch.__version__)
    except UsageError:
        return DEFAULT_TORCH
    return torch.__version__


def _steady(setting: Setting, sizes: Mapping[str, int]) -> Traced:
    """The step once where it leaves nothing behind, else three times over: its caches are filled by the last."""
    found = traced(setting._replace(iterations=1), sizes)
    return found if is_closed(found.program) else traced(setting._replace(iterations=3), sizes)


def _result(job: _Job, unset: list[str], over: str | None, formulas: bool) -> Trace:
    drawing = Drawing()
    with drawing.watched():
        found, graphs = job.steady()
    program, drew = found.program, drawing.drew
    symbolic, forms, why = _in_letters(job, program) if formulas else (None, None, "not asked for")
    if drew or why == _OTHERWISE:
        check_alike(program, lambda: job.steady()[0].program, times=4 if drew else 1)
    shown = _lettered(program, symbolic) if forms else program
    labels = names(shown)
    step = last_step(shown)
    launches = [e for name in step_phases(step) for e in step.phases()[name] if isinstance(e, Launch)]
    time, no_time = _time(program, job.gpu, None)
    rates = community(job.gpu.id)
    return Trace(
        getattr(job.setting.function, "__qualname__", type(job.setting.function).__qualname__),
        job.setting.step,
        tuple(x.text() for x in job.setting.inputs),
        job.sizes,
        job.gpu,
        memory_of(program, job.gpu, job.version, job.config),
        sum((launch.work for launch in launches), start=Work()),
        time,
        _time(program, job.gpu, rates)[0] if rates else None,
        program,
        account(step),
        lines_of(program, labels, found.forward_of),
        forms,
        why,
        tuple(_advice(job, found, labels)),
        _largest(job, over) if over else None,
        found.unknown,
        found.operators,
        (*_notes(job, program, unset, drew, graphs), *_left_out(job, program, forms), *no_time),
        graphs,
        job.version,
        job.config,
    )


def _time(program: Program, gpu: Gpu, rates: Calibration | None) -> tuple[Time | None, list[str]]:
    try:
        return time_of(program, gpu, rates), []
    except UsageError as missing:
        return None, [f"no time: {missing}"]


def _in_letters(job: _Job, program: Program) -> tuple[Symbolic | None, Forms | None, str]:
    """The run in letters and its forms; else why there are none."""
    if not job.sizes:
        return None, None, "no size is a letter"
    if job.compiled:
        return _fitted(job, program)
    same = _enough(program)
    repeats = sum(isinstance(e, Mark) and e.phase == "forward" for e in same.events)
    setting = job.setting._replace(iterations=repeats)
    why, second_best = "", None
    for tied in (None, *multiples_among(job.sizes)[:_MOST_TIED]):
        try:
            symbolic = traced_in_letters(setting, hints(job.sizes, job.sizes), tied)
            forms = closed_forms(symbolic, same, job.sizes)
        except UsageError as error:
            why = why or f"the code does not run in letters: {error}"
            continue
        if forms.checked and not divides_letters(forms.conditions):
            return symbolic, forms, ""
        if forms.checked:
            second_best = second_best or (symbolic, forms, "")
        why = why or _OTHERWISE
    return second_best or (None, None, why)


def _enough(program: Program) -> Program:
    """Without the third step where the second was the same."""
    starts = [i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward"]
    if len(starts) < 3:
        return program
    second, third = (
        [(e.op, e.nbytes, e.dtype, e.site) for e in part if isinstance(e, Alloc)]
        for part in (program.events[starts[-2] : starts[-1]], program.events[starts[-1] :])
    )
    return program._replace(events=program.events[: starts[-1]]) if second == third else program


def _fitted(job: _Job, program: Program) -> tuple[Symbolic | None, Forms | None, str]:
    """Forms of compiled code, whose plans are for numbers; else why there are none."""
    from memmodel.tracer.compiled.letters import forms_of

    try:
        symbolic, forms = forms_of(program, job.sizes, lambda sizes: job.run(job.setting, sizes).program)
    except UsageError as error:
        return None, None, str(error)
    return symbolic, forms, ""


_MOST_TIED = 6  # letters tried as multiples of another, where the code does not run in letters of their own


def _lettered(program: Program, symbolic: Symbolic | None) -> Program:
    """The program with sizes that show as letters, where the run in letters has the same storages."""
    if symbolic is None:
        return program
    from memmodel.report.formulas import plain

    shapes = {
        e.key: tuple(Size(int(n), _letter(plain(s))) for n, s in zip(e.shape, w.shape, strict=True))
        for e, w in zip(_of_last_step(program), _of_last_step(symbolic.program), strict=True)
        if len(e.shape) == len(w.shape)
    }
    events = [e._replace(shape=shapes.get(e.key, e.shape)) if isinstance(e, Alloc) else e for e in program.events]
    return Program(events, program.names, program.gradients)


def _of_last_step(program: Program) -> list[Alloc]:
    """The births among the inputs and in the last step."""
    marks = [i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward"]
    events = (*program.events[: marks[0]], *program.events[marks[-1] :])
    return [e for e in events if isinstance(e, Alloc) and not is_shared_scratch(e)]


def _letter(text: str) -> str:
    return text if text.replace("·", "").isalnum() else f"({text})"


def _advice(job: _Job, found: Traced, labels: Mapping[int, str]) -> list[Advice]:
    """Changes on the events, and those that are traced again; most first."""
    before = live_peak(found.program)
    tips = [] if job.compiled else advice(found.program, labels, found.last_use)
    for change, setting in _rewritten(job, found.program):
        try:
            after = live_peak(job.run(setting, job.sizes).program)
        except UsageError:
            continue
        if after < before:
            tips.append(Advice(change, after, before - after, "by a trace"))
    return sorted(tips, key=lambda tip: -tip.less_bytes)


def _rewritten(job: _Job, program: Program) -> list[tuple[str, Setting]]:
    """(change, what to trace) of changes to the whole function."""
    setting, function = job.setting, job.setting.function
    found = []
    if setting.step == "train" and _parameters_known(function):
        change = f"{_line_of(function)}checkpoint the whole function"
        found.append((change, setting._replace(function=_checkpointed(function))))
    found += _library_softmax(job, program)
    shapes = [x.shape(job.sizes) for x in setting.inputs]
    names_ = [x.name[:1] for x in setting.inputs]
    if names_ == ["q", "k", "v"] and all(len(s) == 4 for s in shapes) and setting.step != "own":
        fused = torch.nn.functional.scaled_dot_product_attention
        change = f"{_line_of(function)}scaled_dot_product_attention(q, k, v), where it computes no more than that"
        found.append((change, setting._replace(function=lambda q, k, v: fused(q, k, v))))
    return found


def _library_softmax(job: _Job, program: Program) -> list[tuple[str, Setting]]:
    """The function with the library's softmax where it writes softmax out."""
    setting = job.setting._replace(iterations=1)
    if job.compiled or not {"exp", "div"} <= {launch.name.rstrip("_") for launch in program.launches()}:
        return []
    if not _parameters_known(setting.function):
        return []
    finder = Finder()
    traced(setting._replace(function=under(finder, setting.function)), job.sizes)
    plan = finder.plan()
    if not plan.ends:
        return []
    where = ", ".join(map(str, plan.lines))
    changed = setting._replace(function=under(Rewriter(plan), setting.function))
    return [(f"line {where}: torch.softmax(x, dim) instead of exp(x - max) / sum", changed)]


def _line_of(function: Callable[..., Any]) -> str:
    """Where a function begins, as the beginning of a sentence; nothing for one that is not the user's Python."""
    called = function.forward if isinstance(function, torch.nn.Module) else function
    code = getattr(inspect.unwrap(called), "__code__", None)
    return f"line {code.co_firstlineno}: " if code is not None else ""


def _parameters_known(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not say
        return False
    return True


def _checkpointed(function: Callable[..., Any]) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def wrapped(**arguments: Any) -> Any:
        return checkpoint(function, use_reentrant=False, **arguments)

    called = function.forward if isinstance(function, torch.nn.Module) else function
    wrapped.__signature__ = inspect.signature(called)  # type: ignore[attr-defined]
    return wrapped


def _largest(job: _Job, over: str) -> Largest:
    if room_bytes(job.gpu) is None:
        job.gpu.listed("capacity")  # raises, naming the key
    step = next(s for s in (128, 64, 32, 16, 8, 4, 2, 1) if job.sizes[over] % s == 0)

    def runs(size: int) -> bool:
        program = job.run(job.setting, job.sizes | {over: size}).program
        return bool(fits(program, job.gpu, job.version, job.config))

    return largest(over, runs, step, LARGEST)


def _left_out(job: _Job, program: Program, forms: Forms | None) -> list[str]:
    """What of each phase's peak the formulas do not have: reductions' scratch."""
    found: list[str] = []
    if forms is None:
        return found
    for phase, branches in forms.peaks.items():
        shown = max(forms.value(branch.expression, job.sizes) for branch in branches)
        missing = int(phase_peaks(program)[phase]) - shown
        if missing > 0:
            found.append(f"the formula of the {phase} peak leaves out {bytes_text(missing)} of reductions' scratch")
    return found


def _notes(job: _Job, program: Program, unset: list[str], drew: bool, graphs: Graphs | None) -> list[str]:
    steps = {
        "inference": "third call, under no_grad, that drops its result",
        "forward": "third forward pass that drops its result",
        "train": "third step, gradients set to None after each, the upstream gradient alive throughout",
        "own": "third step, as the code runs it",
    }
    how = "torch.compile" if graphs else "eager"
    notes = [f"torch {job.version}, {how}, one GPU, default stream; {steps[job.setting.step]}"]
    notes += graphs.notes() if graphs else []
    if unset:
        given = ", ".join(f"{x}={job.sizes[x]}" for x in unset)
        notes.append(f"numbers are for {given}: no other sizes were given")
    if not is_closed(program) and job.setting.step != "own":
        notes.append("the function keeps tensors from one call to the next")
    if drew:
        notes.append("the code draws numbers in Python (random, numpy); several traces of it allocated alike")
    return notes

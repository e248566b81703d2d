"""`memmodel.trace`: from a function and its inputs to memory, lines, formulas, work and advice."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.cublas import DEFAULT_TORCH, parse_torch_version
from memmodel.attention.case import LARGEST
from memmodel.base.errors import UsageError, check_kind
from memmodel.base.search import last_true
from memmodel.base.units import bytes_text
from memmodel.events.account import account
from memmodel.events.communication import collectives
from memmodel.events.liveness import last_step, phase_peaks, step_launches, summary
from memmodel.events.origin import names
from memmodel.events.program import Program
from memmodel.events.work import Work
from memmodel.gpus import Gpu, load_gpu
from memmodel.prediction import attention_kernels
from memmodel.rules.sdpa import Backends
from memmodel.step import device_of, memory_of, other_kernels, room_bytes, time_or_why
from memmodel.timing.intervals import itemsize_of
from memmodel.timing.transfer import expected_rates
from memmodel.tracer.compiled import Graphs
from memmodel.tracer.forms import OTHERWISE, forms_of, lettered
from memmodel.tracer.formulas.closed import Forms
from memmodel.tracer.formulas.symbolic import hints
from memmodel.tracer.job import Job
from memmodel.tracer.lines import lines_of
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.private.seen import import_seen
from memmodel.tracer.random_draws import RandomDraws, check_alike, spread
from memmodel.tracer.ranks import Mesh, largest_mesh, spans, table, to_trace
from memmodel.tracer.result import Largest, Trace
from memmodel.tracer.retraced import advice_of
from memmodel.tracer.specs import checked_at, inputs_of, letters_of, parse_at
from memmodel.tracer.target import Script, target
from memmodel.tracer.watch.run import Setting, Traced
from memmodel.tracer.watch.streams import Event, Stream
from memmodel.tracer.watch.watcher import MOST_OPERATORS
from memmodel.tracer.watch.world import World, checked_world

_OPERATORS_OF_A_LOOP = 20_000  # that a branch may have left, at least: more takes a while and may have no end


@contextmanager
def _frozen_garbage_collector() -> Iterator[None]:
    """Exclude objects that exist now from garbage collection: torch's are so many that a full pass takes 0.1 s."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@_frozen_garbage_collector()
def trace(
    fn: Callable[..., Any] | str,
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
    loss: str = "",
    world: int | None = None,
    rank: int | None = None,
    gpus_per_node: int = 8,
    progress: Callable[[str], None] | None = None,
) -> Trace:
    """The memory, work and time of a PyTorch function on a GPU, without one, as numbers, by line and in letters.

    The function runs, on tensors that have shapes and no data; whatever else its code does happens too.

    Args:
        fn: a function, lambda or nn.Module; of many GPUs, better its place, "train.py:step", whose file each rank runs.
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
        loss: in step "train", the result that backward starts from, by key, field or place; "all" for all of them.
            Unless given, the result called "loss", else the scalars, else everything.
        world: of many GPUs, how many: the code runs as one rank after the other, on torch.distributed's fake group.
        rank: the one to trace; unless given, those that differ, and the result is the fullest's.
        gpus_per_node: GPUs of a machine.
        progress: called with what is traced next, in words.

    Raises UsageError for wrong input, and for code that cannot run without data, with the line at fault.
    """
    if isinstance(fn, str):
        fn = Script(fn)
    if not callable(fn):
        raise UsageError(f"trace of {fn!r}: expected a function or a module, and its inputs")
    wanted = inputs_of(inputs)
    letters = letters_of(wanted)
    check_kind("at", at, str | Mapping, "sizes such as {'N': 16384} or N=16k")
    check_kind("config", config, AllocatorConfig)
    asked = checked_at(parse_at(at) if isinstance(at, str) else dict(at or {}), letters)
    device = gpu if isinstance(gpu, Gpu) else load_gpu(gpu)
    version = torch_version or _installed()
    modelled = device_of(device)
    backends = Backends(modelled.capability, parse_torch_version(version), modelled.gfx)
    sizes = {x: asked.get(x, value) for x, value in hints(letters, asked).items()}
    setting = Setting(
        fn, wanted, step, modelled, backends, most_operators=most_operators, loss=loss, chip=_chip_of(device)
    )
    job = Job(setting, sizes, device, version, config, compiled, progress or (lambda _: None))
    if over is not None and over not in letters:
        raise UsageError(f"over {over}: no input has a size {over}; the letters are {', '.join(letters) or 'none'}")
    unset = [x for x in letters if x not in asked]
    if world is None:
        return _result(job, unset, over, formulas)
    return _of_ranks(job, unset, checked_world(world, rank, gpus_per_node), rank)


def imported(function: str, gpu: Gpu) -> Any:
    """The function, by the name that `memmodel trace` takes, of a module imported as on a machine with the GPU."""
    with import_seen(_chip_of(gpu), ((torch.cuda, kind.__name__, kind) for kind in (Stream, Event))):
        return target(function)


def _chip_of(gpu: Gpu) -> Chip:
    major, minor = gpu.compute_capability or (8, 0)
    memory = gpu.capacity_bytes if "capacity" in gpu.values else 0
    return Chip(10 * major + minor, device_of(gpu).sms, gpu.name, memory)


def _of_ranks(job: Job, unset: list[str], world: World, rank: int | None) -> Trace:
    """The trace of the fullest rank, with the memory of all."""
    found: dict[int, Trace] = {}
    meshes: list[Mesh] = []
    runs: list[Traced] = []
    waiting = [world.rank]
    while waiting:
        at = waiting.pop(0)
        each = world.at(at)._replace(meshes=(meshes,), runs=(runs,))
        found[at] = _result(replace(job, setting=job.setting._replace(world=each)), unset, None, formulas=False)
        # The meshes that the first rank makes tell which others differ from it.
        if rank is None and len(found) == 1:
            mesh = largest_mesh(world.size, meshes)
            sends = any(each.kind == "send" for each in found[at].communication)
            waiting = [other for other in to_trace(mesh, sends) if other != at]
    fullest = max(found.values(), key=lambda trace: (trace.memory.reserved_peak_bytes, trace.memory.live_peak_bytes))
    if rank is not None:
        return fullest
    rows = table(largest_mesh(world.size, meshes), {at: trace.memory for at, trace in found.items()})
    return replace(fullest, ranks=rows, notes=(*fullest.notes, f"ranks traced: {spans(found)}; others as the nearest"))


def _installed() -> str:
    try:
        parse_torch_version(torch.__version__)
    except UsageError:
        return DEFAULT_TORCH
    return torch.__version__


def _result(job: Job, unset: list[str], over: str | None, formulas: bool) -> Trace:
    draws = RandomDraws()
    with draws.watched():
        steady = job.steady()
    found, graphs = steady.traced, steady.graphs
    program, drew = found.program, draws.drew
    symbolic, forms, why, few = (
        forms_of(job, steady)
        if formulas
        else (None, None, "not asked for" if job.setting.world is None else "formulas are of one GPU", None)
    )
    drawn = spread(program, lambda: job.steady().traced.program) if drew else ""
    # Letters that allocate otherwise may only show that no two calls of the function allocate alike.
    if why == OTHERWISE and not drew:
        check_alike(program, lambda: job.steady().traced.program)
    shown = lettered(program, symbolic, few) if forms else program
    labels = names(shown)
    step = last_step(shown)
    time, no_time = time_or_why(program, job.machine(None))
    rates = expected_rates(job.gpu, itemsize_of(program.launches()))
    return Trace(
        getattr(job.setting.function, "__qualname__", type(job.setting.function).__qualname__),
        job.setting.step,
        tuple(x.text() for x in job.setting.inputs),
        job.sizes,
        job.gpu,
        memory_of(program, job.version, job.gpu, job.config),
        sum((launch.work for launch in step_launches(step)), start=Work()),
        time,
        time_or_why(program, job.machine(rates), time)[0] if rates else None,
        program,
        account(step),
        lines_of(program, labels, found.forward_of),
        forms,
        why,
        tuple(advice_of(job, found, labels)) if job.setting.world is None else (),
        _largest(job, over, program, forms) if over else None,
        found.unknown,
        found.operators,
        (
            *_notes(job, program, unset, drawn, graphs, bool(found.choices)),
            *found.notes,
            *(_other_way(job, found) if found.branched else ()),
            *([steady.alike.note()] if steady.alike else ()),
            *_left_out(job, program, forms),
            *no_time,
        ),
        attention_kernels(found.choices),
        graphs,
        job.version,
        job.config,
        host_peak_bytes=found.host_peak_bytes,
        communication=collectives(step_launches(step), job.setting.world.node) if job.setting.world else (),
    )


def _largest(job: Job, over: str, program: Program, forms: Forms | None) -> Largest:
    """The largest multiple of a power of two that fits; both sides of the answer are traced.

    Where it is sought first, the formula of the peak says: it grows as the memory reserved does.
    """
    room = room_bytes(job.gpu)
    if room is None:
        job.gpu.listed("capacity")  # raises, naming the key
    room = int(room or 0)
    step = next(s for s in (128, 64, 32, 16, 8, 4, 2, 1) if job.sizes[over] % s == 0)
    end = LARGEST // step

    @cache
    def reserved(count: int) -> int:
        sizes = job.sizes | {over: count * step}
        traced = program if sizes == job.sizes else job.run(job.setting, sizes).program
        return memory_of(traced, job.version, job.gpu, job.config).reserved_peak_bytes

    def by_formula(known: int, forms: Forms) -> int:
        """The largest, where the formula says by how much the reserved memory at a known size changes."""
        beside = reserved(known) - forms.peak(job.sizes | {over: known * step})
        return last_true(lambda n: forms.peak(job.sizes | {over: n * step}) + beside <= room, end, known)

    guess = job.sizes[over] // step
    if forms is not None and over not in forms.fixed:
        # Twice: what the allocator adds is read at a known size, the second time near the answer.
        guess = by_formula(by_formula(guess, forms) or guess, forms)
    count = last_true(lambda count: reserved(count) <= room, end, guess)
    return Largest(over, count * step, None if count >= end else (count + 1) * step)


def _other_way(job: Job, found: Traced) -> Iterator[str]:
    """What the step takes where branches on values go the other way."""
    most = min(max(4 * found.operators, _OPERATORS_OF_A_LOOP), job.setting.most_operators)
    try:
        other = job.run(job.setting._replace(otherwise=True, most_operators=most), job.sizes)
    except UsageError:
        yield "where these go the other way, the code raises an error or does not end"
        return
    peak, others = (max(phase_peaks(each.program).values()) for each in (found, other))
    yield f"where these go the other way, the live peak is {'the same' if others == peak else bytes_text(others)}"


def _left_out(job: Job, program: Program, forms: Forms | None) -> list[str]:
    """The bytes of each phase's peak that formulas leave out: scratch that depends on the number of SMs."""
    found: list[str] = []
    if forms is None:
        return found
    for phase, branches in forms.peaks.items():
        shown = max(forms.value(branch.expression, job.sizes) for branch in branches)
        missing = int(phase_peaks(program)[phase]) - shown
        if missing > 0:
            found.append(f"the formula of the {phase} peak leaves out {bytes_text(missing)} of scratch")
    return found


def _notes(job: Job, program: Program, unset: list[str], drawn: str, graphs: Graphs | None, attends: bool) -> list[str]:
    steps = {
        "inference": "third call, under no_grad, that drops its result",
        "forward": "third forward pass that drops its result",
        "train": "third step, gradients set to None after each, the upstream gradient alive throughout",
        "own": "third step, as the code runs it",
    }
    how = "torch.compile" if graphs else "eager"
    others = other_kernels(job.gpu) if attends else ""
    world = job.setting.world
    where = "one GPU, default stream" if world is None else f"rank {world.rank} of {world.size}, {world.node} a machine"
    notes = [f"torch {job.version}, {how}, {where}; {steps[job.setting.step]}"]
    if world is not None:
        notes.append("NCCL's buffers are left out: they are outside PyTorch's allocator; time is without communication")
    notes += [*filter(None, [others]), *(graphs.notes() if graphs else [])]
    if unset:
        given = ", ".join(f"{x}={job.sizes[x]}" for x in unset)
        notes.append(f"numbers are for {given}: no other sizes were given")
    if not summary(program).closed and world is None and job.setting.step != "own":
        notes.append("the function keeps tensors from one call to the next")
    return [*notes, *filter(None, [drawn])]

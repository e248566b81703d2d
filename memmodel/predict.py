"""Predict: record a case, replay it through the allocator, hold its kernels against the GPU's ceilings."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from memmodel.algorithms import ALGORITHMS, algorithm, record
from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.case import Case, make_case
from memmodel.cublas import workspace
from memmodel.dtypes import DType
from memmodel.errors import UsageError
from memmodel.gpus import Gpu, load_gpu
from memmodel.masks import Mask
from memmodel.masks import mask as mask_named
from memmodel.prediction import Memory, Mitigation, Prediction, Report, Time
from memmodel.program import Launch, Program
from memmodel.replay import Replay, replay
from memmodel.roofline import kernel_times, share_by_ceiling
from memmodel.timeline import account, phase_peaks, saved_bytes
from memmodel.work import Work

STEPS = 3  # the first two fill the allocator's cache, the third is read
MOST_CHUNKS = 8  # of a suggested chunked attention
WINDOW = 4096  # of a suggested sliding window (Mistral 7B's)
DEFAULT_ALGORITHMS = ("naive", "flash")


def predict(
    gpu: str | Gpu = "A100",
    algorithms: str | Sequence[str] = DEFAULT_ALGORITHMS,
    *,
    batch: int = 1,
    heads: int = 32,
    kv_heads: int | None = None,
    seq: int = 4096,
    kv_seq: int | None = None,
    head_dim: int = 128,
    dtype: str | DType = "bf16",
    mask: str | Mask = "none",
    window: int | None = None,
    dropout: float = 0.0,
    phase: str = "train",
    chunk: int = 1024,
    torch: str = "2.13",
    config: AllocatorConfig | None = None,
) -> Report:
    """What attention takes on a GPU: memory, work and time for each algorithm.

    Sizes are numbers of elements: q (batch, heads, seq, head_dim), k and v (batch, kv_heads, kv_seq, head_dim). Raises
    UsageError for anything that is not a valid configuration.
    """
    cases = cases_of(
        (algorithms,) if isinstance(algorithms, str) else algorithms,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        seq=seq,
        kv_seq=kv_seq,
        head_dim=head_dim,
        dtype=dtype,
        mask=mask,
        window=window,
        dropout=dropout,
        phase=phase,
        chunk=chunk,
        torch=torch,
    )
    return predict_cases(cases, gpu, config)


def cases_of(
    algorithms: Sequence[str],
    *,
    heads: int = 32,
    seq: int = 4096,
    head_dim: int = 128,
    dtype: str | DType = "bf16",
    mask: str | Mask = "none",
    window: int | None = None,
    **sizes: Any,
) -> list[Case]:
    """The checked case of each algorithm, from the arguments of `predict`."""
    names = [algorithm(name).name for name in algorithms]
    case = make_case(
        heads=heads,
        seq=seq,
        head_dim=head_dim,
        dtype_name=dtype,
        mask=mask if isinstance(mask, Mask) else mask_named(mask, window),
        **sizes,
    )
    return [replace(case, algorithm=name) for name in names]


def predict_cases(cases: Sequence[Case], gpu: str | Gpu, config: AllocatorConfig | None = None) -> Report:
    """`predict` for checked cases."""
    device = load_gpu(gpu) if isinstance(gpu, str) else gpu
    cases = [replace(case, arch=arch_of(device)) for case in cases]
    predictions = tuple(predict_case(case, device, config) for case in cases)
    return Report(
        device,
        predictions,
        tuple(mitigations(predictions, device, config)),
        tuple(assumptions(cases[0], device, config)),
    )


def arch_of(gpu: Gpu) -> int:
    """The compute capability as one number where there are tiles for it, else that of an A100."""
    from memmodel.tiles import FAMILY

    major, minor = gpu.compute_capability or (8, 0)
    return 10 * major + minor if 10 * major + minor in FAMILY else 80


def predict_case(case: Case, gpu: Gpu, config: AllocatorConfig | None = None) -> Prediction:
    """One case on one GPU."""
    program = record(case.lettered(), sites=True)
    notes = [note for note in (algorithm(case.algorithm).note,) if note]
    time, missing = _time(program, case, gpu)
    return Prediction(
        case,
        algorithm(case.algorithm).title,
        memory(program, case, gpu, config),
        sum((launch.work for launch in step(program)), start=Work()),
        _compulsory(case),
        time,
        account(program),
        (*notes, *missing),
    )


def memory(program: Program, case: Case, gpu: Gpu, config: AllocatorConfig | None = None) -> Memory:
    """The memory of a recorded case: its own readings, and the allocator's with endless and with real capacity."""
    scratch = workspace(case.torch, gpu.compute_capability)
    endless = replay(program, CachingAllocator(config=config), scratch, STEPS)
    usages = [endless.last(phase) for phase in ("forward", "backward") if _has(endless.phases, phase)]
    threads = {launch.thread for launch in program.launches() if launch.cublas}
    peaks = phase_peaks(program)
    return Memory(
        live_peak_bytes=int(peaks["peak"]),
        allocated_peak_bytes=max(usage.allocated_peak for usage in usages),
        reserved_peak_bytes=max(usage.reserved_peak for usage in usages),
        saved_bytes=int(saved_bytes(program)),
        workspace_bytes=scratch.nbytes * (1 if scratch.per_call else len(threads)),
        phase_peaks={name: int(peaks[name]) for name in ("forward", "backward") if name in peaks},
        context_bytes=gpu.context_bytes,
        capacity_bytes=_capacity(gpu),
        fits=_fits(endless, program, case, gpu, config),
    )


def fits(program: Program, case: Case, gpu: Gpu, config: AllocatorConfig | None = None) -> bool | None:
    """Whether the allocator gets through the program with the GPU's memory less the context's; None if not known."""
    room = room_bytes(gpu)
    if room is None:
        return None
    limited = CachingAllocator(room, config)
    return replay(program, limited, workspace(case.torch, gpu.compute_capability), STEPS).out_of_memory is None


def _fits(endless: Replay, program: Program, case: Case, gpu: Gpu, config: AllocatorConfig | None) -> bool | None:
    """`fits`, without a second replay where the endless one never reserved more than there is room for."""
    room = room_bytes(gpu)
    if room is not None and max(usage.reserved_peak for _, usage in endless.phases) <= room:
        return True
    return fits(program, case, gpu, config)


def room_bytes(gpu: Gpu) -> int | None:
    """What is left to the allocator: capacity less the highest context seen on this GPU (nothing, where not known)."""
    capacity = _capacity(gpu)
    if capacity is None:
        return None
    return capacity - (gpu.context_bytes[1] if gpu.context_bytes else 0)


def _capacity(gpu: Gpu) -> int | None:
    return gpu.capacity_bytes if "capacity" in gpu.values else None


def _has(phases: Iterable[tuple[str, object]], name: str) -> bool:
    return any(phase == name for phase, _ in phases)


def step(program: Program) -> tuple[Launch, ...]:
    """The kernels of the last step, forward and backward."""
    phases = program.phases()
    return tuple(e for name in ("forward", "backward") for e in phases.get(name, []) if isinstance(e, Launch))


def _time(program: Program, case: Case, gpu: Gpu) -> tuple[Time | None, list[str]]:
    phases = program.phases()
    try:
        timed = {
            name: kernel_times((e for e in phases[name] if isinstance(e, Launch)), gpu)
            for name in ("forward", "backward")
            if name in phases
        }
    except UsageError as missing:
        return None, [f"no time: {missing}"]
    kernels = tuple(kernel for part in timed.values() for kernel in part)
    shares = share_by_ceiling(kernels)
    seconds: dict[str, float] = {name: sum(kernel.seconds for kernel in part) for name, part in timed.items()}
    notes = [] if "boost_clock" in gpu.values else [f"the exp ceiling is left out: {gpu.name} has no known exp rate"]
    return Time(sum(seconds.values()), seconds, next(iter(shares)), shares, kernels), notes


def _compulsory(case: Case) -> int:
    """Bytes of inputs and outputs, each once: the least any algorithm can move in the step."""
    size = case.dtype.itemsize
    queries = case.batch * case.heads * case.seq
    keys = case.batch * case.kv_heads * case.kv_seq
    forward = queries * case.head_dim + keys * (case.head_dim + case.value_dim) + queries * case.value_dim
    backward = forward + queries * case.head_dim + keys * (case.head_dim + case.value_dim)
    return int(size * (forward + (backward if case.phase == "train" else 0)))


def mitigations(predictions: Sequence[Prediction], gpu: Gpu, config: AllocatorConfig | None = None) -> list[Mitigation]:
    """What would lower the first algorithm's peak, each with its own prediction, best first."""
    first = predictions[0]
    if algorithm(first.case.algorithm).fused or first.case.algorithm == "decode":
        return []
    known = {prediction.case: prediction.memory for prediction in predictions}
    before = first.memory.allocated_peak_bytes
    found = []
    for change, case, settings in _changes(first, config):
        after = known[case] if case in known else memory(record(case), case, gpu, settings)
        lower = after.allocated_peak_bytes < before or (after.fits and first.memory.fits is False)
        if lower:
            found.append(
                Mitigation(change, after.allocated_peak_bytes, before - after.allocated_peak_bytes, after.fits)
            )
    return sorted(found, key=lambda m: m.allocated_peak_bytes)


def _changes(
    prediction: Prediction, config: AllocatorConfig | None
) -> Iterator[tuple[str, Case, AllocatorConfig | None]]:
    """(what changes, the changed case, allocator settings) of everything worth trying."""
    case = prediction.case
    if prediction.memory.fits is False and not (config and config.expandable_segments):
        settings = replace(config or AllocatorConfig(), expandable_segments=True)
        yield "PYTORCH_ALLOC_CONF=expandable_segments:True", case, settings
    chunked = replace(case, algorithm="chunked", chunk=max(case.chunk, -(-case.seq // MOST_CHUNKS)))
    if not case.dropout:
        yield ALGORITHMS["flash"].title, replace(case, algorithm="flash"), config
        if case.algorithm != "chunked" and case.seq > chunked.chunk:
            yield f"chunks of {chunked.chunk} queries", chunked, config
        if case.mask.window is None and case.seq <= case.kv_seq and case.kv_seq > WINDOW:
            windowed = replace(chunked, mask=Mask(causal=True, window=WINDOW))
            yield f"the same with a window of {WINDOW} keys", windowed, config
    if case.algorithm != "checkpointed" and case.phase != "inference":
        yield "checkpointing", replace(case, algorithm="checkpointed"), config
    if case.batch > 1:
        yield "half the batch", replace(case, batch=case.batch // 2), config


def assumptions(case: Case, gpu: Gpu, config: AllocatorConfig | None) -> list[str]:
    """What was taken as given, and what is not modelled."""
    found = [gpu.ambiguity] if gpu.ambiguity else []
    found.append(
        f"torch {case.torch}, eager, contiguous (batch, heads, seq, head dim) tensors, one GPU, default stream"
    )
    if case.phase == "train":
        found.append("gradients set to None after each step, the upstream gradient alive throughout, third step")
    else:
        found.append("third step of a loop that drops its output")
    if gpu.context_bytes is None:
        found.append(f"memory outside the allocator is not known for {gpu.name} and taken as 0")
    if config is not None and config.expandable_segments:
        found.append("expandable_segments:True")
    found.append("time from datasheet rates: real kernels take longer; L2 hits, tile edges and clocks are not modelled")
    return found

"""Predict: record a case, replay it through the allocator, and time its kernels by the GPU's ceilings."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict, Unpack, overload

from memmodel.algorithms import ALGORITHMS, algorithm, check_splits, recorded, supported
from memmodel.allocator import AllocatorConfig
from memmodel.allocator.cublas import parse_torch_version
from memmodel.attention.case import TWINS, Case, check_size, make_cache, make_case
from memmodel.attention.masks import Mask
from memmodel.attention.masks import mask as mask_named
from memmodel.attention.scores import make_scores
from memmodel.base.dtypes import FP8, DType
from memmodel.base.errors import UsageError, check_kind, shortened
from memmodel.base.units import bytes_text, decimal_text
from memmodel.events.account import account
from memmodel.events.liveness import step_launches
from memmodel.events.program import Program
from memmodel.events.work import Work
from memmodel.gpus import Gpu, load_gpu
from memmodel.mitigations import mitigations
from memmodel.prediction import Computed, Model, Prediction, Report, SideBySide, Time, attention_kernels
from memmodel.step import (
    device_of,
    memory_of,
    other_kernels,
    room_bytes,
    served_time,
    time_or_why,
    timing_bytes,
    transferred,
)
from memmodel.timing import Calibration, Machine
from memmodel.timing.calibration import mismatches
from memmodel.timing.host import around, host_of
from memmodel.timing.serving import chip_known, serves
from memmodel.timing.transfer import expected_rates

DEFAULT_ALGORITHMS = ("naive", "flash")
_DEFAULT_SIZES: dict[str, Any] = {"heads": 32, "seq": 4096, "head_dim": 128}
DEFAULTS: dict[str, Any] = {**_DEFAULT_SIZES, "dtype": "bf16"}


class TimeOptions(NamedTuple):
    """Settings of the expected time.

    Attributes:
        kernel: the serving stack's kernel; None for the GPU's default one.
        host: seconds that an operation of forward takes the host; None for the default.
        served: whether attention in inference is timed by the serving kernels' model instead of the calibration.
    """

    kernel: str | None = None
    host: float | None = None
    served: bool = True


class Configuration(TypedDict, total=False):
    """The keywords of `predict`."""

    like: str | None
    batch: int
    heads: int | None
    kv_heads: int | None
    seq: int
    kv_seq: int | None
    head_dim: int | None
    value_dim: int | None
    dtype: str | DType | None
    mask: str | Mask | None
    window: int | None
    sink_keys: int | None
    dropout: float
    phase: str
    chunk: int
    page_size: int | None
    cache_dtype: str | DType | None
    num_splits: int | None
    bias: str | None
    bias_shape: str | None
    softcap: float | None
    sinks: bool
    deterministic: bool
    lengths: str | Sequence[int]
    torch: str
    config: AllocatorConfig | None
    calibration: Calibration | None
    kernel: str | None
    host: float | None


@overload
def predict(
    gpu: str | Gpu = "A100", algorithms: str | Sequence[str] | None = None, **given: Unpack[Configuration]
) -> Report: ...


@overload
def predict(
    gpu: list[str | Gpu] | list[str] | list[Gpu] | tuple[str | Gpu, ...],
    algorithms: str | Sequence[str] | None = None,
    **given: Unpack[Configuration],
) -> SideBySide: ...


def predict(
    gpu: str | Gpu | Sequence[str | Gpu] = "A100",
    algorithms: str | Sequence[str] | None = None,
    *,
    like: str | None = None,
    batch: int = 1,
    heads: int | None = None,
    kv_heads: int | None = None,
    seq: int = 4096,
    kv_seq: int | None = None,
    head_dim: int | None = None,
    value_dim: int | None = None,
    dtype: str | DType | None = None,
    mask: str | Mask | None = None,
    window: int | None = None,
    sink_keys: int | None = None,
    dropout: float = 0.0,
    phase: str = "train",
    chunk: int = 1024,
    page_size: int | None = None,
    cache_dtype: str | DType | None = None,
    num_splits: int | None = None,
    bias: str | None = None,
    bias_shape: str | None = None,
    softcap: float | None = None,
    sinks: bool = False,
    deterministic: bool = False,
    lengths: str | Sequence[int] = (),
    torch: str = "2.13",
    config: AllocatorConfig | None = None,
    calibration: Calibration | None = None,
    kernel: str | None = None,
    host: float | None = None,
) -> Report | SideBySide:
    """Predict memory, work and time of one layer's attention on a GPU, for each algorithm.

    Args:
        gpu: a name (`memmodel gpus` lists them), or a `Gpu`; a list of them gives a report for each, `SideBySide`.
        algorithms: names; without any, naive and flash, or those of them that can run the configuration.
        like: a model (`memmodel models` lists them) that gives heads, kv_heads, head_dim and mask where they are not
            given. Without one they are 32, heads, 128 and no mask.
        batch: sequences.
        heads: query heads: q is (batch, heads, seq, head_dim).
        kv_heads: key and value heads, a divisor of heads: k and v are (batch, kv_heads, kv_seq, head_dim).
        seq: queries.
        kv_seq: keys; as many as queries where not given.
        head_dim: size of a head.
        value_dim: size of a head of values; head_dim where not given.
        dtype: "bf16" (the default), "fp16", "fp32" or "fp64".
        mask: "none", "causal" or "window", or a `Mask`.
        window: keys a query sees, itself included.
        sink_keys: first keys that every query sees beside its window.
        dropout: its probability.
        phase: "inference", "forward" (kept for backward) or "train" (forward and backward).
        chunk: queries at a time in "chunked".
        page_size: keys in a page of the KV cache of "decode"; one piece for each sequence where not given.
        cache_dtype: of that cache, `dtype` where not given: also "fp8" (or "fp8_e4m3") and "fp8_e5m2".
        num_splits: parts in which "decode" reads the keys; flash-attention's choice where not given.
        bias: what is added to scores: "none", "fixed" (a tensor), "learned" (one with a gradient) or "alibi".
        bias_shape: of that tensor before (seq, kv_seq): "1,h" (shared by the sequences), "b,1", "b,h" or "1,1".
        softcap: c in c tanh(scores / c).
        sinks: whether a learned logit a head takes part in every row's softmax (gpt-oss).
        deterministic: as torch.use_deterministic_algorithms(True).
        lengths: of unlike sequences, instead of batch and seq: packed by "flash-attn-varlen", padded by others.
        torch: version of PyTorch, whose workspaces differ.
        config: settings of the caching allocator.
        calibration: rates measured on the GPU (`memmodel calibrate`); shipped ones are taken where there are any.
        kernel: the serving stack's kernel, such as "vllm-fa3", whose time is expected of flash attention and
            decoding in inference; without one, the first of `memmodel.timing.serving.kernels.kernel_names`.
        host: seconds that an operation of forward takes the host; without them 9.9 us, and an interval from 0 to 32.

    Raises UsageError for anything that is not a valid configuration.
    """
    cases = cases_of(
        _names(algorithms),
        like=like,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        seq=seq,
        kv_seq=kv_seq,
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=dtype,
        mask=mask,
        window=None if window is None else check_size("window", window),
        sink_keys=None if sink_keys is None else check_size("sink_keys", sink_keys),
        dropout=dropout,
        phase=phase,
        chunk=chunk,
        page_size=page_size,
        cache_dtype=cache_dtype,
        num_splits=num_splits,
        bias=bias,
        bias_shape=bias_shape,
        softcap=softcap,
        sinks=sinks,
        deterministic=deterministic,
        lengths=lengths,
        torch=torch,
    )
    check_splits(cases[0])
    first, model = by_default(cases[0], like), _model_of(like, cases[0])

    def on(one: str | Gpu) -> Report:
        report = predict_cases(cases, one, config, calibration, TimeOptions(kernel, host))
        return report.replace(assumptions=(first, *report.assumptions), model=model)

    return on(gpu) if isinstance(gpu, str | Gpu) else SideBySide(tuple(map(on, _several(gpu))))


def _several(gpus: Any) -> Sequence[str | Gpu]:
    """A list of at least one GPU; anything else as one name, so that it is refused as a name."""
    try:
        return tuple(gpus) or (gpus,)
    except TypeError:  # an array without dimensions is Iterable too
        return (gpus,)


def _names(algorithms: Any) -> Sequence[str] | None:
    """One name or several as a sequence; what is neither too, so that it is refused as a name."""
    if algorithms is None:
        return None
    if isinstance(algorithms, str):
        return (algorithms,)
    try:
        return tuple(algorithms)
    except TypeError:  # an array without dimensions is Iterable too
        return (algorithms,)


def _model_of(like: str | None, case: Case) -> Model | None:
    if like is None:
        return None
    from memmodel.models.one_layer import model_of  # models are slow to import, and only --like needs them

    return model_of(like, case)


def _shape_of(like: str | None) -> dict[str, Any]:
    if like is None:
        return {}
    from memmodel.models.catalogue import model_shape

    return model_shape(like)


def _latent_shape(like: str, names: list[str]) -> dict[str, Any]:
    """The attention of a model over its cache of latents. Raises UsageError beside other algorithms."""
    from memmodel.models.catalogue import listed

    arch = listed(like).architecture
    if arch.mla is None:
        raise UsageError(f"{', '.join(names)} with {like}: its attention has no latents; take decode, or deepseek-v3")
    if len(names) > 1:
        raise UsageError(f"{', '.join(names)} with {like}: keys of latents have sizes of their own, ask for them alone")
    return {"kv_heads": 1, "head_dim": arch.mla.kv_rank + arch.mla.rope, "value_dim": arch.mla.kv_rank}


def by_default(case: Case, like: str | None) -> str:
    """The note that names the parts of a case which have their default values, and those that come from a model."""
    model = _shape_of(like)
    words, usual = case.described(), make_case(dtype_name=DEFAULTS["dtype"], **_DEFAULT_SIZES).described()
    left_out = {*model, *TWINS}
    parts = [word for name, word in words.items() if word and word == usual[name] and name not in left_out]
    of_model = f"; heads, head dim and mask of {like} where not given" if like else ""
    return f"defaults: {', '.join(parts)}{of_model}"


def cases_of(
    algorithms: Sequence[str] | None,
    *,
    like: str | None = None,
    mask: str | Mask | None = None,
    window: int | None = None,
    **given: Any,
) -> list[Case]:
    """The checked case of each algorithm, from the arguments of `predict`."""
    names = dict.fromkeys(algorithm(name).name for name in (algorithms or DEFAULT_ALGORITHMS))
    model = _shape_of(like)
    if like is not None and any(ALGORITHMS[name].latent for name in names):
        model |= _latent_shape(like, list(names))
    of_model = model.pop("mask", None), model.pop("window", None)
    if given.get("head_dim") is not None:
        model.pop("value_dim", None)
    named = mask.casefold() if isinstance(mask, str) else ""
    if mask is None and window is None:
        mask, window = of_model
    elif window is None and named == "window":
        window = of_model[1]
    elif window is not None and named == "none":
        raise UsageError(f"--mask none and --window {window}: give one of them")
    sink_keys = given.pop("sink_keys", None) or 0
    cache = make_cache(*(given.pop(name, None) for name in ("page_size", "cache_dtype", "num_splits")))
    scores = make_scores(*(given.pop(name, None) for name in ("bias", "bias_shape", "softcap", "sinks")))
    arguments = {**DEFAULTS, **model, **{name: value for name, value in given.items() if value is not None}}
    case = make_case(
        cache=cache,
        scores=scores,
        dtype_name=arguments.pop("dtype"),
        mask=mask if isinstance(mask, Mask) else mask_named(mask, window, sink_keys),
        **arguments,
    )
    cases = [case.replace(algorithm=name) for name in names]
    if algorithms:
        return cases
    able = [case for case in cases if supported(case)]
    if not able:
        raise UsageError(supported(cases[0]).reason)
    return able


def predict_cases(
    cases: Sequence[Case],
    gpu: str | Gpu,
    config: AllocatorConfig | None = None,
    calibration: Calibration | None = None,
    options: TimeOptions | None = None,
) -> Report:
    """`predict` for checked cases."""
    options = options or TimeOptions()
    if options.kernel is not None and not any(map(serves, cases)):
        raise UsageError(
            f"kernel {options.kernel}: serving kernels run flash attention and decoding in inference, in bf16 or fp16: "
            "--phase inference -a flash"
        )
    check_kind("config", config, AllocatorConfig)
    check_kind("calibration", calibration, Calibration)
    host = options.host
    if host is not None and (isinstance(host, bool) or not isinstance(host, int | float) or not 0 <= host <= 1):
        raise UsageError(f"host {shortened(host)}: expected seconds from 0 to 1, such as 8e-6")
    device = gpu if isinstance(gpu, Gpu) else load_gpu(gpu)
    cases = on_gpu(cases, device)
    rates = calibration or expected_rates(device, cases[0].dtype.itemsize)
    options = options._replace(served=calibration is None or options.kernel is not None)
    predictions = tuple(predict_case(case, device, config, rates, options) for case in cases)
    in_notes = all((options.served and serves(each.case)) or each.calibrated is None for each in predictions)
    shown = None if in_notes else rates
    return Report(
        device,
        predictions,
        Computed(lambda: mitigations(predictions, device, config)),
        (*assumptions(cases[0], device, config, shown), *_left_out(cases)),
    )


def _left_out(cases: Sequence[Case]) -> list[str]:
    """A note on each default algorithm that cannot run this configuration."""
    if len(cases) != 1 or cases[0].algorithm not in DEFAULT_ALGORITHMS:
        return []
    others = [cases[0].replace(algorithm=name) for name in DEFAULT_ALGORITHMS]
    return [f"{ALGORITHMS[c.algorithm].title} left out: {supported(c).reason}" for c in others if not supported(c)]


def on_gpu(cases: Sequence[Case], gpu: Gpu) -> list[Case]:
    """The cases with the tiles and SMs of a GPU, or an A100's for one without tiles."""
    device = device_of(gpu)
    return [case.replace(device=device) for case in cases]


def own_arch(gpu: Gpu) -> int | None:
    """The GPU's compute capability as one number, if the table has tiles for it."""
    from memmodel.attention.tiles import FAMILY

    major, minor = gpu.compute_capability or (0, 0)
    arch = 10 * major + minor
    return arch if arch in FAMILY else None


def predict_case(
    case: Case,
    gpu: Gpu,
    config: AllocatorConfig | None = None,
    calibration: Calibration | None = None,
    options: TimeOptions | None = None,
) -> Prediction:
    """One case on one GPU; its time by the datasheet and, where there are rates, the one to expect."""
    tape = recorded(case.lettered(), sites=True)
    program = tape.program
    notes = [note for note in (algorithm(case.algorithm).note,) if note]
    if algorithm(case.algorithm).tiled and own_arch(gpu) is None:
        notes.append(f"there are no kernels for {gpu.name}: the figures are what those for an A100 would take")
    if algorithm(case.algorithm).chooses and other_kernels(gpu):
        notes.append(other_kernels(gpu))
    if algorithm(case.algorithm).cached and 1 < case.seq == case.kv_seq:
        notes.append(f"{case.seq} queries are new tokens at once; for one and a cache: --seq 1 --kv-seq {case.kv_seq}")
    elif algorithm(case.algorithm).cached and case.seq > 1 and not case.mask.causal:
        notes.append(
            f"without a mask the {case.seq} new tokens see one another; drafts are verified with --mask causal"
        )
    launches = step_launches(program)
    work = sum((launch.work for launch in launches), start=Work())
    notes += _padding(float(work.flops), sum(float(launch.least.flops) for launch in launches))
    if algorithm(case.algorithm).compiles:
        notes.append(_first_call(program, gpu))
    time, missing = _time(program, Machine(gpu))
    calibrated, unknown = _expected(case, program, gpu, calibration, options or TimeOptions())
    if time is not None:
        calibrated = calibrated and calibrated.at_least(time.seconds)
        missing += unknown
    return Prediction(
        case,
        algorithm(case.algorithm).title,
        memory_of(program, case.torch, gpu, config),
        work,
        _compulsory(case),
        time,
        calibrated,
        account(program),
        (*notes, *(f"{op}: {what}" for op, what in tape.unknown.items()), *missing),
        attention_kernels((choice, None) for choice in tape.choices),
    )


def _first_call(program: Program, gpu: Gpu) -> str:
    """A note on the first call of compiled code, which times kernels."""
    if "l2" not in gpu.values:
        return f"the first call also times kernels, with a buffer of the size of L2: not known for {gpu.name}"
    needed, room = timing_bytes(program, gpu), room_bytes(gpu)
    unfit = ", more than the GPU has" if room is not None and needed > room else ""
    return (
        f"the first call also times kernels, with a buffer of the size of L2 ({bytes_text(gpu.l2_bytes)}) and copies: "
        f"at most {bytes_text(needed)} alive{unfit}"
    )


def _expected(
    case: Case, program: Program, gpu: Gpu, calibration: Calibration | None, options: TimeOptions
) -> tuple[Time | None, list[str]]:
    """The time to expect (None where there is none), and notes on it."""
    if options.served and serves(case) and chip_known(gpu):
        return served_time(case, gpu, options.kernel)
    if calibration is None:
        return None, []
    if case.dtype in FP8:
        return None, ["no expected time: no run in fp8 is on record"]
    hosts = None if options.host is None else around(host_of(options.host))
    time, notes = _time(program, Machine(gpu, calibration, torch=parse_torch_version(case.torch), told=hosts))
    return time, [note.replace("no time:", "no expected time:") for note in notes] + (transferred(time) if time else [])


def _padding(flops: float, needed: float) -> list[str]:
    """A note where tiles compute more than twice what their results need: few queries do not fill them."""
    if flops <= 2 * needed:
        return []
    return [f"of {decimal_text(flops, 'FLOP')} in whole tiles, {decimal_text(needed, 'FLOP')} are needed"]


def _time(program: Program, machine: Machine) -> tuple[Time | None, list[str]]:
    """The time of the step (None if a rate is missing), and notes on it with the option that may help."""
    time, notes = time_or_why(program, machine)
    if time is None and "bf16" in notes[0] and "tensor.fp16" in machine.gpu.values:
        notes = [f"{notes[0]}; try --dtype fp16"]
    return time, notes


def _compulsory(case: Case) -> int:
    """Bytes of inputs and outputs, each once: the least that any algorithm can move."""
    size, cached = case.dtype.itemsize, (case.cache.dtype or case.dtype).itemsize
    queries = size * case.batch * case.heads * case.seq
    key = cached * case.batch * case.kv_heads * (case.head_dim + case.value_dim)
    forward = queries * (case.head_dim + case.value_dim) + key * case.mask.keys(case.seq, case.kv_seq)
    backward = forward + queries * case.head_dim + key * case.kv_seq
    return int(forward + (backward if case.phase == "train" else 0))


def _in_l2(gpu: Gpu) -> str:
    """How many bytes the lower bound of a kernel's time takes for granted."""
    if "l2" not in gpu.values:
        return f"the L2 of {gpu.name} is not known: all bytes come from HBM"
    return f"of a kernel's bytes, {bytes_text(gpu.l2_bytes)} may be in L2 already"


def assumptions(
    case: Case, gpu: Gpu, config: AllocatorConfig | None, calibration: Calibration | None = None
) -> list[str]:
    """The assumptions of a prediction, and what it does not model."""
    found = [gpu.ambiguity] if gpu.ambiguity else []
    found.append(
        f"torch {case.torch}, eager, contiguous (batch, heads, seq, head dim) tensors, one GPU, default stream"
    )
    if case.phase == "train":
        found.append("gradients set to None after each step, the upstream gradient alive throughout, third step")
    else:
        found.append("third step of a loop that drops its output")
    if case.lengths and case.seq != min(case.lengths):
        found.append(
            f"sequences padded to {case.seq} tokens, which the kernels compute too; flash-attn-varlen alone packs them"
        )
    if gpu.context_bytes is None:
        found.append(f"memory outside the allocator is not known for {gpu.name} and taken as 0")
    if gpu.memory == "unified":
        found.append(
            f"the host shares the memory of {gpu.name}: what it takes counts as memory outside the allocator, and "
            "context_low_MiB and context_high_MiB of a --gpu-file set it"
        )
    if config is not None and config.expandable_segments:
        found.append("expandable_segments:True")
    found.append(f"time, at least: necessary work over datasheet rates; {_in_l2(gpu)}")
    if calibration is not None:
        found.append(f"time, expected: {calibration.described}")
        found += mismatches(calibration, gpu.id, case.torch if calibration.basis == "local" else None)
    return found

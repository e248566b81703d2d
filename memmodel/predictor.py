"""Predict: record a case, replay it through the allocator, and time its kernels by the GPU's ceilings."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict, Unpack, overload

from memmodel.algorithms import algorithm
from memmodel.allocator import AllocatorConfig
from memmodel.allocator.cublas import parse_torch_version
from memmodel.attention.case import Case, check_size
from memmodel.attention.masks import Mask
from memmodel.base.dtypes import FP8, DType
from memmodel.base.errors import UsageError, check_kind, shortened
from memmodel.cases import by_default, cases_of, on_gpu
from memmodel.events.account import account
from memmodel.events.liveness import step_launches
from memmodel.events.program import Program
from memmodel.events.work import Work
from memmodel.gpus import Gpu, load_gpu
from memmodel.mitigations import mitigations
from memmodel.notes import assumptions, left_out, notes_on
from memmodel.prediction import Computed, Model, Prediction, Report, SideBySide, Time, attention_kernels
from memmodel.recorder import check_splits, recorded
from memmodel.step import (
    memory_of,
    served_time,
    time_or_why,
    transferred,
)
from memmodel.timing import Calibration, Machine
from memmodel.timing.host import around, host_of
from memmodel.timing.serving import chip_known, serves
from memmodel.timing.terms import FUSED, LONG_STEP
from memmodel.timing.transfer import expected_rates


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
        like: a model (`memmodel models` lists them) that gives heads, kv_heads, head_dim, mask and softcap where they
            are not given. Without one they are 32, heads, 128, no mask and none.
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
        lengths: of unlike sequences, instead of batch and seq: packed by "flash" and "flash-attn-varlen", else padded.
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
    assumed, model = by_default(cases, like), _model_of(like, cases[0])

    def on(one: str | Gpu) -> Report:
        report = predict_cases(cases, one, config, calibration, TimeOptions(kernel, host))
        return report.replace(assumptions=(*assumed, *report.assumptions), model=model)

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
        (*assumptions(cases[0], device, config, shown), *left_out(cases)),
    )


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
    work = sum((launch.work for launch in step_launches(program)), start=Work())
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
        (
            *notes_on(case, program, work, gpu),
            *(f"{op}: {what}" for op, what in tape.unknown.items()),
            *dict.fromkeys(missing),  # the time to expect lacks what the datasheet's lacks
        ),
        attention_kernels((choice, None) for choice in tape.choices),
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
    time, notes = _time(program, Machine(gpu, calibration, torch=parse_torch_version(case.torch), known_hosts=hosts))
    notes = [note.replace("no time:", "no expected time:") for note in notes] + (transferred(time) if time else [])
    return time, [*notes, _COMPILED] if time and case.algorithm == "compiled" else notes


_COMPILED = (
    "expected time: of code compiled for these sizes, as in a process's first call; the softmax of code for any head "
    f"dim, as from the second one on, takes up to {FUSED['fused_any']:g} times as long, of code compiled below "
    f"{LONG_STEP:,} tokens {FUSED['fused_short']:g} times"
)


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

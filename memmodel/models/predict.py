"""Predict a step of a whole model: record it, replay it through the allocator, and time its kernels."""

from collections.abc import Iterator
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.cublas import parse_torch_version
from memmodel.base.dtypes import short_name
from memmodel.base.errors import UsageError, check_kind, shortened
from memmodel.base.files import read_bytes
from memmodel.base.signatures import taking
from memmodel.base.units import bytes_text
from memmodel.events.account import account
from memmodel.events.groups import OPTIMIZER, WORKSPACE, by_kind, group_of
from memmodel.events.liveness import at_peak, step_launches
from memmodel.events.program import Alloc, Mark, Program, Save, total_work
from memmodel.events.work import Work
from memmodel.gpus import Gpu, load_gpu
from memmodel.gpus.links import Node, node_of
from memmodel.models.architecture import Architecture, parameters
from memmodel.models.catalogue import listed
from memmodel.models.choices import keywords, model_case
from memmodel.models.data_parallel import assumed
from memmodel.models.families import architecture_of
from memmodel.models.flops import forward_flops
from memmodel.models.letters import Taken, group_formulas, lettered, more_layers
from memmodel.models.mitigations import mitigations
from memmodel.models.program import kernels_of, live_peak, memory_program, program_of
from memmodel.models.quantization import FORMATS
from memmodel.models.ranks import fullest, memory_by_kind
from memmodel.models.results import Efficiency, ModelPrediction, ModelReport, Peak
from memmodel.models.serving import serving
from memmodel.models.setting import EAGER, ModelCase
from memmodel.models.share import assumed_of_shares
from memmodel.models.step_time import stages_of, step_time
from memmodel.prediction import Computed, Memory, Time
from memmodel.step import device_of, memory_of, time_or_why
from memmodel.timing import Calibration, Machine
from memmodel.timing.calibration import mismatches
from memmodel.timing.transfer import expected_rates

SPREAD = "90 % of runs: as published steps of whole models spread"
_TITLES = {"train": "the training step", "prefill": "the prefill", "decode": "the decoding step"}


@taking(keywords())
def model(
    like: str | None = None,
    gpu: str | Gpu = "H100",
    *,
    config: str | PathLike[str] | dict[str, Any] | None = None,
    allocator: AllocatorConfig | None = None,
    calibration: Calibration | None = None,
    link: str | None = None,
    gpus_per_node: int | None = None,
    **setting: Any,
) -> ModelReport:
    """Predict memory, work and time of a step of a whole model on a GPU.

    Args:
        like: a model (`memmodel models` lists them).
        gpu: a name (`memmodel gpus` lists them), or a `Gpu`.
        config: instead of `like`, a file config.json in Hugging Face's format, its folder, or its parsed content.
        allocator: settings of the caching allocator.
        calibration: rates measured on the GPU; shipped ones are taken where there are any.
        link: what joins GPUs and machines (`memmodel.gpus.links.node_of`), by default what usually does.
        gpus_per_node: how many share a machine, by default as many as usual.
        setting: batch, seq, phase, dtype, optimizer and the other fields of `memmodel.models.setting.ModelCase`.

    Raises UsageError for anything that is not a valid configuration.
    """
    case = model_case(architecture(like, config), **setting)
    return predict_model(case, gpu, allocator, calibration, link, gpus_per_node)


def architecture(like: str | None, config: str | PathLike[str] | dict[str, Any] | None) -> Architecture:
    """The architecture of a listed model or of a configuration. Raises UsageError unless one of them is given."""
    if (like is None) == (config is None):
        given = "neither" if like is None else "both"
        raise UsageError(
            f"--like and --config: {given} given, expected one of them, such as --like llama-3-8b or "
            "--config path/to/config.json"
        )
    if like is not None:
        return listed(like).architecture
    if isinstance(config, str | PathLike):
        return _of_file(fspath(config))
    return architecture_of(config, "config")


def named_architecture(name: str) -> Architecture:
    """The architecture of a listed name, or of a file: whatever has a dot and ends as one, or a folder's separator."""
    if not isinstance(name, str):
        raise UsageError(f"model {shortened(name)}: expected a listed name, such as llama-3-8b, or a config.json")
    is_file = name.endswith(".json") or "/" in name or "\\" in name
    return architecture(None, name) if is_file else architecture(name, None)


def configuration(like: str | None, config: str | PathLike[str] | dict[str, Any] | None) -> dict[str, Any]:
    """The configuration itself, in Hugging Face's format. Raises UsageError as `architecture` does."""
    architecture(like, config)
    if like is not None:
        return listed(like).config
    assert config is not None
    return config if isinstance(config, dict) else _read(fspath(config))[1]


def _of_file(name: str) -> Architecture:
    path, document = _read(name)
    return architecture_of(document, path)


def _read(name: str) -> tuple[str, Any]:
    """(path, content) of a config.json, or of the one in a folder."""
    import json
    import os

    inside = os.path.join(name, "config.json")
    path = inside if os.path.exists(inside) else name
    text = read_bytes(path, "give Hugging Face's config.json or its folder")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    return path, document


def predict_model(
    case: ModelCase,
    gpu: str | Gpu,
    allocator: AllocatorConfig | None = None,
    calibration: Calibration | None = None,
    link: str | None = None,
    gpus_per_node: int | None = None,
) -> ModelReport:
    """`model` for a checked case."""
    check_kind("allocator", allocator, AllocatorConfig)
    check_kind("calibration", calibration, Calibration)
    device = gpu if isinstance(gpu, Gpu) else load_gpu(gpu)
    case = replace(case, device=device_of(device))
    rates = calibration or expected_rates(device, case.dtype.itemsize)
    machine = Machine(device, rates, torch=parse_torch_version(case.torch))
    prediction = _predicted(case, device, allocator, machine)
    if case.layout.world > 1:
        prediction = _with_links(prediction, machine, link, gpus_per_node)
    return ModelReport(
        device,
        (prediction,),
        None if case.phase == "train" or not case.arch.causal else serving(case, device, machine, allocator),
        Computed(lambda: mitigations(case, prediction.memory, device, allocator)),
        tuple(_assumptions(prediction, device, allocator, rates)),
    )


def _predicted(case: ModelCase, gpu: Gpu, config: AllocatorConfig | None, machine: Machine) -> ModelPrediction:
    # Megatron-LM's flat buffers hold weights of many shapes, of which no product of letters is left.
    with_formulas = case.framework != "megatron"
    kinds = memory_by_kind(case, gpu, config, _for_memory)
    case, memory = fullest(kinds, case)
    # Sizes with letters equal their numbers: one recording serves memory, work, time and formulas.
    program = _recorded(case)
    memory = memory or memory_of(program, case.torch, gpu, config)
    index, alive = at_peak(program, memory.live_peak_bytes)
    kernels = kernels_of(program, case.microbatches)
    alone = case.layout.world == 1
    time, calibrated, missing = times_of(kernels, case, gpu, machine.calibration) if alone else (None, None, [])
    best = calibrated or time
    seconds = best.seconds if best else 0.0
    return ModelPrediction(
        case,
        title_of(case),
        {part: int(count) for part, count in parameters(case.arch).items() if count},
        with_workspace(memory),
        group_formulas(Taken(case, program, alive), _with_more_layers(case)) if with_formulas else {},
        peak_of(program, index),
        total_work(step_launches(kernels)) if alone else Work(),
        model_flops(case),
        time,
        calibrated,
        efficiency_of(case, gpu, seconds) if seconds else None,
        Computed(lambda: account(program)),
        (*missing, *_notes(case), *_first_step(case, memory)),
        ranks=kinds,
    )


def _recorded(case: ModelCase) -> Program:
    """The program of a case, with letters where it has formulas: memory, formulas and time read the same one."""
    return program_of(case if case.framework == "megatron" else lettered(case))


def _for_memory(case: ModelCase) -> Program:
    """The program of a rank for its memory: of the first stage, mostly the fullest, the one that has formulas too."""
    return memory_program(case) if case.rank.stage else _recorded(case)


def step_on(
    program: Program, case: ModelCase, gpu: Gpu, config: AllocatorConfig | None, rates: Calibration | None
) -> tuple[Memory, Time | None, Time | None, list[str]]:
    """The memory and the times of a recorded step on one GPU, by its shipped rates or by others."""
    rates = rates or expected_rates(gpu, case.dtype.itemsize)
    times = times_of(kernels_of(program, case.microbatches), case, gpu, rates)
    return memory_of(program, case.torch, gpu, config), *times


def times_of(
    kernels: Program, case: ModelCase, gpu: Gpu, rates: Calibration | None
) -> tuple[Time | None, Time | None, list[str]]:
    """The lower bound and the time to expect of a step's kernels, None where a rate lacks; and notes on them."""
    time, missing = time_or_why(kernels, Machine(gpu))
    if rates is None:
        return time, None, missing
    expected, _ = time_or_why(kernels, Machine(gpu, rates, torch=parse_torch_version(case.torch)), time)
    return time, expected, missing


def _with_links(
    prediction: ModelPrediction, machine: Machine, link: str | None, gpus_per_node: int | None
) -> ModelPrediction:
    """The prediction with the times of all ranks' step; without them where no links are known and none are given."""
    try:
        node = node_of(machine.gpu, link, gpus_per_node)
    except UsageError as unknown:
        if link is not None or gpus_per_node is not None:
            raise
        notes = (*prediction.notes, f"no time: {unknown}")
        return replace(prediction, time=None, calibrated=None, efficiency=None, notes=notes)
    return _on_many(prediction, machine, node)


def _on_many(prediction: ModelPrediction, machine: Machine, node: Node) -> ModelPrediction:
    """The prediction of a rank with the times of all ranks' step."""
    case = prediction.case
    stages = stages_of(case, _recorded)
    try:
        least = step_time(case, Machine(machine.gpu), node, stages)
        expected = step_time(case, machine, node, stages, least) if machine.calibration else None
    except UsageError as missing:
        return replace(
            prediction, time=None, calibrated=None, efficiency=None, notes=(f"no time: {missing}",), node=node
        )
    rates = machine.calibration
    step, kernels = expected or least, stages[case.rank.stage].launches(case.microbatches)
    return replace(
        prediction, work=total_work(kernels),
        time=least.as_time("datasheet"), step=step, node=node,
        calibrated=expected.as_time(rates.name).at_least(least.seconds) if expected and rates else None,
        efficiency=efficiency_of(case, machine.gpu, step.seconds),
    )  # fmt: skip


def _with_more_layers(case: ModelCase) -> Taken:
    more = lettered(more_layers(case))
    program = program_of(more)
    return Taken(more, program, at_peak(program, live_peak(more))[1])


def title_of(case: ModelCase) -> str:
    """The step's name."""
    return _TITLES[case.phase] if case.arch.causal or case.phase == "train" else "the forward pass"


def _notes(case: ModelCase) -> Iterator[str]:
    if case.arch.sinks and case.attention != EAGER:
        yield f"attention sinks are left out: a logit a head, which --attention {EAGER} adds to all scores"
    if case.arch.mla is not None and case.phase == "decode":
        yield "latents are expanded to keys and values for each token, as in Hugging Face's class; servers need not"
    if case.arch.sharing == "copied" and case.phase != "train":
        yield "a cache has each key once, as servers keep it; Hugging Face's class keeps a copy for every head"
    encoder = case.arch.encoder
    if case.arch.patches is not None or (encoder and encoder.spectrogram):
        yield "cuDNN's workspace, of the convolutions that read images or sounds: counted as 0"
    if encoder and encoder.layers != case.arch.layers:
        yield f"L counts the decoder's {case.arch.layers} layers: the encoder's {encoder.layers} are in the formulas"
    if case.arch.moe is not None and case.arch.moe.scores == "sigmoid-before" and case.layout.ep == 1:
        yield "every expert computes every token, as in Hugging Face's class; trainers and servers need not"
    elif case.arch.moe is not None and not case.capacity:
        yield "tokens are taken as spread evenly among experts"


def _first_step(case: ModelCase, memory: Memory) -> Iterator[str]:
    """That the first step fits where later ones do not: an optimizer makes its states in its first update."""
    states, room = by_kind(memory.groups).get(OPTIMIZER, 0), memory.room_bytes
    lazily = case.framework == "huggingface" and not (case.masters or case.in_backward)  # and all at once
    if memory.fits is not False or room is None or not states or not lazily:
        return
    before = [n for phase, n in memory.phase_peaks.items() if phase in ("forward", "backward")]
    first = max(*(n - states for n in before), memory.phase_peaks.get("optimizer", 0)) + memory.workspace_bytes
    if first <= room:
        yield f"the first step allocates {bytes_text(first)} and fits: the optimizer has no states before its update"


def with_workspace(memory: Memory) -> Memory:
    """The memory with cuBLAS workspaces as a group beside those of the live peak."""
    of_cublas = {WORKSPACE: memory.workspace_bytes} if memory.workspace_bytes else {}
    return memory._replace(groups={**memory.groups, **of_cublas})


def peak_of(program: Program, index: int) -> Peak:
    """Where the live peak is, which is reached with the event at `index`."""
    phase = next(event.phase for event in reversed(program.events[: index + 1]) if isinstance(event, Mark))
    birth = program.events[index]
    if not isinstance(birth, Alloc):
        return Peak(phase, "", "its start")
    saved = {event.key for event in program.events if isinstance(event, Save)}
    return Peak(phase, group_of(program, birth.key, saved, ()), birth.op)


def tokens_of(case: ModelCase) -> int:
    """The tokens that a step of all ranks works on."""
    return int(case.layout.batches * case.batch * case.microbatches * (1 if case.phase == "decode" else case.seq))


def model_flops(case: ModelCase) -> int:
    """The FLOP that all ranks' step needs by weights and scores; a backward takes twice its forward."""
    queries = 1 if case.phase == "decode" else case.seq
    times = 3 * case.microbatches * case.layout.batches if case.phase == "train" else 1
    read = 0 if case.phase == "decode" else case.read
    return int(times * forward_flops(case.arch, case.batch, queries, case.seq, read, case.read))


def efficiency_of(case: ModelCase, gpu: Gpu, seconds: float) -> Efficiency:
    """Tokens a second and MFU of a step of so many seconds."""
    known = f"tensor.{short_name(case.dtype)}" in gpu.values
    peak = case.layout.world * gpu.peak_by_name(short_name(case.dtype)) if known else None
    return Efficiency(tokens_of(case) / seconds, model_flops(case) / seconds / peak if peak else None)


def assumptions_of(case: ModelCase, config: AllocatorConfig | None = None) -> Iterator[str]:
    """The assumptions on a step, on any GPU."""
    on = "one GPU" if case.layout.world == 1 else f"{case.layout.world:,} GPUs"
    modules = "Megatron-LM 0.14 on TransformerEngine 2.11" if case.framework == "megatron" else "Hugging Face's classes"
    yield f"torch {case.torch}, {'compiled' if case.compiled else 'eager'}, {on}; modules as {modules} have them"
    if case.compiled:
        parts = " and activations" if case.eager_loss else ", activations and the loss"
        yield f"compiled: norms, rotary positions{parts} are a kernel each, which keep their inputs"
        yield "not known: what else Inductor fuses, and what its partitioner keeps in place of these inputs"
    if case.framework != "megatron":
        yield from assumed(case)
        yield from assumed_of_shares(case)
    elif case.arch.moe is not None:
        yield "experts take equally many tokens: tokens x top-k over experts, rounded up"
    if case.quantize != "none":
        yield f"weights of linear layers in {FORMATS[case.quantize].title}; products in {short_name(case.dtype)}"
    if case.phase != "train" and case.arch.causal:
        made = "made before" if case.phase == "decode" else "a layer's copied once it is computed"
        yield f"a cache for every token of the context, {made}; prompts in one piece"
    if case.phase == "train":
        yield "gradients set to None after each step, third step"
    if config is not None and config.expandable_segments:
        yield "expandable_segments:True"


def _assumptions(
    prediction: ModelPrediction, gpu: Gpu, config: AllocatorConfig | None, rates: Calibration | None
) -> Iterator[str]:
    case, node = prediction.case, prediction.node
    yield from assumptions_of(case, config)
    if gpu.context_bytes is None:
        yield f"memory outside the allocator is not known for {gpu.name} and taken as 0"
    if node is not None:
        yield f"machines of {node.named}{', assumed: servers differ' if node.assumed else ''}"
        yield "NCCL's own buffers are left out: hundreds of MiB a communicator, outside the allocator"
        yield "collectives, at least: bytes over the links' rates; expected: NCCL's own model; they slow no kernel down"
    yield "time, at least: from datasheet rates; real kernels take longer"
    if rates is not None:
        yield f"time, expected: {rates.described}"
        yield SPREAD
        yield from mismatches(rates, gpu.id, case.torch if rates.basis == "local" else None)

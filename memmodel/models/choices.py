"""A checked `ModelCase` from what people give."""

from collections.abc import Iterable
from inspect import Parameter
from typing import Any

from memmodel.allocator.cublas import parse_torch_version
from memmodel.attention.case import check_size
from memmodel.base.dtypes import DType, dtype, float16, float32
from memmodel.base.errors import UsageError, check_kind, choice, shortened, unknown
from memmodel.models.architecture import Architecture, Patches, layer_weights
from memmodel.models.kv_cache import NAMES
from memmodel.models.layout import NAMES as LAYOUT
from memmodel.models.layout import SCHEDULES, ZERO, Layout, check_layout
from memmodel.models.megatron import check_megatron
from memmodel.models.quantization import FORMATS
from memmodel.models.setting import (
    CHECKPOINTS,
    DISPATCHERS,
    EAGER,
    FRAMEWORKS,
    LOSSES,
    PHASES,
    SDPA,
    Adapter,
    ModelCase,
)
from memmodel.models.share import share

_SIZES = ("batch", "seq", "source", "chunks", "microbatches", "deferred")
_MAY_BE_0 = ("deferred", "etp", "microbatch_group")  # which they are by default
MOST_CHUNKS = 1 << 10
_LORA = ("lora", "lora_targets", "lora_dtype", "lora_dropout", "dora", "qlora")
DROPOUTS = ("dropout", "attention_dropout", "embedding_dropout")  # the configuration's own unless given
_NOT_BY_NAME = ("arch", "device", "layout", "rank")  # fields of ModelCase
_BY_NAME = tuple(name for name in ModelCase._fields if name not in _NOT_BY_NAME)
SETTINGS = (*_BY_NAME, *_LORA, *LAYOUT, "gpus")
_BY_MODEL = ("attention", "source", *DROPOUTS)  # what is not given is as the model has it
_MEGATRON = (
    "local_modules",
    "separate_gradients",
    "attention_mask",
    "sequential_experts",
)  # choices of that framework alone
_FLAGS = (
    *("clip", "fused_norms", "compiled", "eager_loss", "keep_logits", "repeat_kv", "offload"),
    *("autocast", "masters", "in_backward"),
    *_MEGATRON,
)


def model_case(arch: Architecture, **given: Any) -> ModelCase:
    """The case of a model and the fields of `ModelCase` that are given (None: left out), with its dtype by name.

    Dropout that is not given is the configuration's own, in training.

    Raises UsageError for a value that is not one of the field's, and for choices that exclude each other.
    """
    for name in given:
        if name not in SETTINGS:
            raise unknown("setting", name, SETTINGS)
    gpus = given.pop("gpus", None)
    of_layout = {name: given.pop(name) for name in LAYOUT if name in given}
    of_adapter = {name: given.pop(name) for name in _LORA if name in given}
    given["adapter"] = given.get("adapter") or _adapter(arch, **of_adapter)
    values = {name: _checked(name, value) for name, value in given.items() if value is not None}
    values.setdefault("attention", EAGER if arch.eager else SDPA)
    if values.get("phase", "train") == "train" and values.get("framework") != "megatron":  # which has its own
        for name in DROPOUTS:
            values.setdefault(name, getattr(arch, name))
    if arch.positions in ("learned", "relative"):
        # Learned positions end at max_pos, and an image always has that many tokens; T5 was made for no more.
        values.setdefault("seq", arch.max_pos if arch.patches else min(ModelCase(arch).seq, arch.max_pos))
    gpus = None if gpus is None else check_size("gpus", gpus)
    case = ModelCase(arch, **values, layout=_layout(of_layout, gpus))
    _check_together(case)
    _check_on_many(case, gpus)
    return case


def keywords() -> list[Parameter]:
    """The settings as keywords of a function, with their defaults; None where these are the model's, or nothing."""
    defaults = {**vars(Layout), **vars(ModelCase), **dict.fromkeys(_BY_MODEL), "dtype": "bf16"}
    kinds = {**Layout.__annotations__, **ModelCase.__annotations__, "dtype": str | DType}
    kinds |= {name: kinds[name] | None for name in _BY_MODEL}
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=kinds.get(name, Any))
        for name in SETTINGS
    ]


def _layout(given: dict[str, Any], gpus: int | None) -> Layout:
    """The layout of what is given; of `gpus`, those that nothing is said of share the state."""
    values = {name: _of_layout(name, value) for name, value in given.items() if value is not None}
    others = Layout(**{name: values[name] for name in ("tp", "pp", "dp", "cp") if name in values}).world
    if gpus and gpus % others == 0:
        values.setdefault("dp_shard", gpus // others)  # FSDP, which needs least memory
    if values.get("schedule") == "interleaved":
        values.setdefault("virtual_stages", 2)
    return Layout(**values)


def _of_layout(name: str, value: Any) -> Any:
    if name in ("sequence_parallel", "reshard"):
        return _flag(name, value)
    if name == "schedule":
        return choice(name, value, SCHEDULES)
    if name == "zero":
        if isinstance(value, bool) or value not in ZERO:
            raise UsageError(f"zero {shortened(value)}: expected 0, 1, 2 or 3")
        return int(value)
    return _size(name, value)


def _size(name: str, value: Any) -> int:
    return 0 if name in _MAY_BE_0 and type(value) is int and value == 0 else check_size(name, value)


def _check_on_many(case: ModelCase, gpus: int | None) -> None:
    check_layout(case.layout, case.arch, int(case.seq), case.microbatches, gpus, case.framework)
    if case.layout.world > 1 and case.phase != "train":
        raise UsageError(f"{case.phase} on {case.layout.world} GPUs is not modelled yet: take phase train")
    if case.loss == "loss-parallel" and (case.layout.tp == 1 or case.framework == "megatron"):
        raise UsageError("loss loss-parallel: it is of PyTorch's tensor parallelism, give tp above 1, or take full")
    check_megatron(case) if case.framework == "megatron" else share(case)  # raise for what does not go with it


def _checked(name: str, value: Any) -> Any:
    if name == "chunks" and check_size(name, value) > MOST_CHUNKS:
        raise UsageError(f"chunks {value}: each is recorded, expected at most {MOST_CHUNKS}")
    if name in _SIZES:
        return _size(name, value)
    if name in _FLAGS:
        return _flag(name, value)
    if name == "dtype":
        return dtype(value)
    if name == "adapter":
        check_kind(name, value, Adapter)
    if name == "quantize":
        return choice("format of weights", value, ("none", *FORMATS))
    if name == "kv_cache":
        return choice("format of the cache", value, NAMES)
    if name in DROPOUTS:
        return _probability(value)
    if name == "capacity":
        return _capacity(value)
    if name == "torch":
        parse_torch_version(value)
        return value
    names = _names(name)
    return choice(name, value, names) if names else value


def _names(field: str) -> Iterable[str]:
    """The names that a field takes; none for a field that is not a name."""
    if field == "optimizer":
        from memmodel_kernels.optimizers import OPTIMIZERS

        return OPTIMIZERS
    if field == "attention":
        return attentions()
    values = {"phase": PHASES, "checkpoint": CHECKPOINTS, "loss": LOSSES, "framework": FRAMEWORKS}
    return {**values, "dispatcher": DISPATCHERS}.get(field, ())


def attentions() -> Iterable[str]:
    """The names of a model's attention: its class's own, and the algorithms that take its q, k and v as they are."""
    from memmodel.algorithms import ALGORITHMS

    return dict.fromkeys((SDPA, EAGER, *(name for name, one in ALGORITHMS.items() if not (one.cached or one.packed))))


def _adapter(
    arch: Architecture,
    lora: Any = None,
    lora_targets: Any = None,
    lora_dtype: Any = None,
    lora_dropout: Any = None,
    dora: Any = None,
    qlora: Any = None,
) -> Adapter | None:
    """Adapters of rank `lora`; None without one. Raises UsageError for parts of adapters where there are none."""
    if lora is None:
        parts = {
            **{"lora-targets": lora_targets, "lora-dtype": lora_dtype, "lora-dropout": lora_dropout},
            **{"dora": dora, "qlora": qlora},
        }
        for name, value in parts.items():
            if value is not None and value is not False:
                raise UsageError(f"--{name} without adapters: give their rank too, such as --lora 16")
        return None
    names = lora_targets.split(",") if isinstance(lora_targets, str) else lora_targets or usual_targets(arch)
    if not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
        given = shortened(lora_targets)
        raise UsageError(f"lora-targets {given}: expected names of linear layers such as q,v, or all")
    targets = tuple(name.strip() for name in names)
    return Adapter(
        check_size("lora", lora),
        () if targets == ("all",) else targets,
        dtype(lora_dtype or "fp32") is float32,
        _probability(lora_dropout or 0.0),
        _flag("dora", dora or False),
        _flag("qlora", qlora or False),
    )


def usual_targets(arch: Architecture) -> tuple[str, ...]:
    """The projections of queries and values, or what holds them (PEFT's defaults)."""
    if arch.fused_qkv:
        return ("qkv",)
    return ("q_up" if arch.mla.q_rank else "q", "kv_up") if arch.mla else ("q", "v")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} {shortened(value)}: expected True or False")
    return value


def _capacity(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not (value == 0 or 0.01 <= value <= 1000):
        raise UsageError(
            f"capacity {shortened(value)}: expected a multiple of an expert's even share, such as 1.25, or 0 for none"
        )
    return float(value)


def _probability(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise UsageError(f"dropout {value}: expected a probability from 0 to below 1, such as 0.1")
    return float(value)


def _check_together(case: ModelCase) -> None:
    for name in (*_MEGATRON, "deferred", "dispatcher"):
        if getattr(case, name) != getattr(ModelCase, name) and case.framework != "megatron":
            raise UsageError(f"{name} without framework megatron: it is a choice of Megatron-LM's, leave it out")
    if case.phase == "train" and case.quantize != "none":
        raise UsageError(f"quantize {case.quantize} in training: packed weights do not learn, take phase decode")
    if case.eager_loss and not case.compiled:
        raise UsageError("eager_loss without compiled: nothing else is compiled either, leave it out")
    if case.kv_cache == "fp8-mla" and case.arch.mla is None:
        raise UsageError(f"kv_cache fp8-mla: {case.arch.name} has no latent attention, take fp8")
    if not case.arch.causal:
        _check_encoder(case)
    _check_source(case)
    most = case.arch.most_tokens
    if most is not None and case.seq > most:
        raise UsageError(f"seq {case.seq}: {case.arch.name} has learned positions for {most} tokens, give at most that")
    if case.attention == SDPA and case.arch.attention_cap:
        raise UsageError(
            f"attention {SDPA}: {case.arch.name} caps its scores, which scaled_dot_product_attention does not, take "
            f"{EAGER} (what Hugging Face's class runs) or flash-attn"
        )
    if case.attention != EAGER and case.arch.sinks and case.phase == "train":
        raise UsageError(
            f"attention {case.attention}: {case.arch.name} has attention sinks, which learn in {EAGER} attention alone "
            f"(what Hugging Face's class runs), take {EAGER}"
        )
    if case.autocast and case.dtype.itemsize != 2:
        raise UsageError(f"autocast to {case.dtype}: its products run in bf16 or fp16, give one of them as dtype")
    if case.autocast and case.masters:
        raise UsageError("autocast with masters: its parameters are in fp32 already, leave one of them out")
    if case.autocast and case.adapter is not None:
        raise UsageError("autocast with adapters: their frozen base is held in the dtype itself, leave autocast out")
    _check_updates(case)
    if case.capacity:
        _check_capacity(case)
    if case.adapter is not None:
        _check_adapter(case, case.adapter)


def _check_encoder(case: ModelCase) -> None:
    """Raise UsageError for choices that need a next token, which an encoder does not have."""
    for name, of_cache in (("phase", case.phase == "decode"), ("kv_cache", case.kv_cache != "auto")):
        if of_cache:
            raise UsageError(
                f"{name} {getattr(case, name)}: {case.arch.name} is an encoder, which keeps no cache: "
                "leave it out, or take phase prefill for a forward pass"
            )
    if case.arch.patches and case.seq != case.arch.max_pos:
        raise UsageError(f"seq {case.seq}: {images_as_tokens(case.arch, case.arch.patches)}: leave seq out")
    if case.arch.patches and ("chunk" in case.loss or case.loss == "fused"):
        raise UsageError(f"loss {case.loss}: {case.arch.name} has one class an image, take full or native")


def _check_source(case: ModelCase) -> None:
    """Raise UsageError for what an encoder before the decoder does not go with, or for a source without one."""
    arch, encoder = case.arch, case.arch.encoder
    if encoder is None:
        if case.source:
            raise UsageError(f"source {case.source}: {arch.name} has no encoder before its decoder, leave it out")
        return
    if encoder.spectrogram and case.source not in (0, encoder.max_pos):
        moments = encoder.spectrogram.stride * encoder.max_pos
        raise UsageError(
            f"source {case.source}: {arch.name} makes {encoder.max_pos} tokens of every sound, padded to {moments:,} "
            "moments: leave it out"
        )
    if arch.positions == "relative" and case.attention not in (SDPA, EAGER):
        raise UsageError(
            f"attention {case.attention}: {arch.name} adds numbers for its positions to all scores, take {SDPA} or "
            f"{EAGER}"
        )
    theirs = {
        "quantize": case.quantize != "none", "kv_cache": case.kv_cache != "auto", "offload": case.offload,
        "compiled": case.compiled,
        "several GPUs": case.layout.world > 1, "framework megatron": case.framework == "megatron",
        "dtype fp16": case.dtype is float16,  # in which T5 and Whisper clamp each layer, and T5 keeps weights in fp32
    }  # fmt: skip
    for name, given in theirs.items():
        if given:
            raise UsageError(f"{name} with {arch.name}: of an encoder with a decoder it is not modelled, leave it out")


def images_as_tokens(arch: Architecture, patches: Patches) -> str:
    """How many tokens a model makes of an image."""
    return f"{arch.name} reads images of {patches.image} x {patches.image} as {arch.max_pos} tokens each"


def _check_capacity(case: ModelCase) -> None:
    """Raise UsageError for what experts with a capacity do not go with."""
    moe = case.arch.moe
    if moe is None:
        raise UsageError(f"capacity {case.capacity:g}: {case.arch.name} has no experts, leave it out")
    theirs = {
        "framework megatron": case.framework == "megatron", "ep": case.layout.ep > 1, "experts with biases": moe.bias,
        f"the scores of {case.arch.name}": moe.scores == "sigmoid-before", "autocast": case.autocast,
    }  # fmt: skip
    for name, given in theirs.items():
        if given:
            raise UsageError(f"capacity {case.capacity:g} with {name}: it is not modelled, leave one of them out")


def _check_updates(case: ModelCase) -> None:
    """Raise UsageError for choices that need all gradients at once, which updates in backward never have."""
    whole = {
        "clip": case.clip,
        "microbatches": case.microbatches > 1,
        "masters": case.masters,
        "muon": case.optimizer == "muon",
    }
    for name, given in whole.items():
        if case.in_backward and given:
            raise UsageError(
                f"{name} with parameters updated in backward: their gradients are never all there; leave one out"
            )


def _check_adapter(case: ModelCase, adapter: Adapter) -> None:
    kinds = dict.fromkeys(case.arch.kinds())
    layers = {w.name.removesuffix(".weight"): w for kind in kinds for w in layer_weights(case.arch, kind) if w.linear}
    for target in adapter.targets:
        if target not in layers:
            raise unknown("linear layer", target, layers)
    check_size("lora rank", adapter.rank)
    for name in adapter.targets or layers:
        least = min(layers[name].shape[-2:])
        if adapter.rank > least:
            raise UsageError(
                f"lora rank {adapter.rank}: the layer {name} is only {least} wide, give a rank of at most that"
            )

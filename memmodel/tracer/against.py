"""A model's recorded step beside the same step of Hugging Face's class, traced: what differs, by group and module."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from memmodel.base.errors import UsageError
from memmodel.events.groups import ACTIVATIONS, by_kind, kind_of
from memmodel.gpus import Gpu
from memmodel.models.setting import EAGER, SDPA, ModelCase
from memmodel.prediction import Memory
from memmodel.tracer.api import trace
from memmodel.tracer.corrections.torch_types import dtype_named
from memmodel.tracer.hugging_face import OPTIMIZERS, hf_step

_STREAM = "residual stream"
# Parts by what their modules' names hold, the first that fits: post_attention_layernorm is a norm.
_PARTS = {
    "norms": ("norm", "ln_"),
    "attention": ("attn", "attention"),
    "feed-forward": ("mlp", "feed_forward", "moe", "experts", "intermediate"),
    "positions": ("rotary",),
    "logits": ("predictions", "lm_head", "transform"),
    "embedding": ("embed", "wte", "wpe"),
    "inputs": ("inputs",),
}


class Against(NamedTuple):
    """Bytes at the live peaks of both.

    Attributes:
        title: Hugging Face's class. ours, theirs: live peaks.
        kinds: group -> (ours, theirs). parts: part of the model -> (ours, theirs) of what is kept for backward.
        modules: module of theirs -> bytes that it keeps for backward.
        notes: what was chosen to build theirs.
    """

    title: str
    ours: int
    theirs: int
    kinds: dict[str, tuple[int, int]]
    parts: dict[str, tuple[int, int]]
    modules: dict[str, int]
    notes: tuple[str, ...]


def against_hugging_face(case: ModelCase, config: Mapping[str, Any], memory: Memory, gpu: Gpu) -> Against:
    """Trace the step of the class that `config` describes, under the setting of `case`.

    Raises UsageError for a setting that Hugging Face's classes do not have, and where transformers is not installed.
    """
    _check(case)
    train = case.phase == "train"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(config)), encoding="utf-8")
        step = hf_step(
            str(path),
            train=train,
            optimizer=case.optimizer if train else None,
            checkpointing=case.checkpoint == "block",
            dtype=dtype_named(case.dtype.name),
            attention=case.attention,
            bare=True,
        )
    at = {"B": case.batch} | ({} if case.arch.patches else {"N": case.seq})
    if case.arch.encoder and not case.arch.encoder.spectrogram:
        at["M"] = case.read
    found = trace(step.function, step.inputs, step=step.step, at=at, gpu=gpu, formulas=False)
    modules = {group: n for group, n in found.memory.groups.items() if kind_of(group) == ACTIVATIONS}
    return Against(
        found.title,
        memory.live_peak_bytes,
        found.memory.live_peak_bytes,
        _beside(by_kind(_alive(memory)), by_kind(_alive(found.memory))),
        _beside(_by_part(memory.groups, _ours), _by_part(modules, _theirs)),
        modules,
        step.notes,
    )


def _beside(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (ours.get(name, 0), theirs.get(name, 0)) for name in dict.fromkeys((*ours, *theirs))}


def _by_part(groups: Mapping[str, int], part: Callable[[str], str]) -> dict[str, int]:
    """The activations among groups, by what `part` makes of the words after the first."""
    found: dict[str, int] = {}
    for group, nbytes in groups.items():
        if kind_of(group) == ACTIVATIONS:
            name = part(group.removeprefix(ACTIVATIONS).strip())
            found[name] = found.get(name, 0) + nbytes
    return found


def _ours(part: str) -> str:
    return part or _STREAM


def _theirs(module: str) -> str:
    """The part that a module of Hugging Face's is, by its name."""
    last = module.rpartition(".")[2].lower()
    return next((part for part, names in _PARTS.items() if any(name in last for name in names)), _STREAM)


def _alive(memory: Memory) -> dict[str, int]:
    """The groups of the live peak, without what the allocator adds."""
    return {group: n for group, n in memory.groups.items() if kind_of(group) != "workspace"}


def _check(case: ModelCase) -> None:
    """Raise UsageError for a setting that cannot be built from the class alone."""
    theirs = {
        "phase": case.phase != "decode",
        "attention": case.attention in (SDPA, EAGER),
        "optimizer": case.phase != "train" or case.optimizer in OPTIMIZERS,
        "checkpoint": case.checkpoint in ("none", "block"),
        "loss": case.loss == "full",
    }
    usual = ModelCase(case.arch)
    plain = (
        *("offload", "repeat_kv", "keep_logits", "masters", "in_backward", "adapter", "clip", "microbatches"),
        *("autocast", "attention_dropout", "dropout", "embedding_dropout", "quantize", "kv_cache", "fused_norms"),
    )
    theirs |= {name: getattr(case, name) == getattr(usual, name) for name in plain}
    for name, there in theirs.items():
        if not there:
            value = getattr(case, name)
            raise UsageError(f"--against hf with {name} {value}: Hugging Face's class alone has it not, leave it out")

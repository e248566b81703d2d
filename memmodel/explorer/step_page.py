"""The page of a whole model's step: closed forms in batch and length, evaluated in the browser."""

import html
import json
from collections.abc import Sequence
from typing import Any

from memmodel.base.errors import UsageError
from memmodel.events.groups import GROUPS
from memmodel.explorer.page import asset, filled, inline_hash, page_style, size_control
from memmodel.explorer.step_forms import MOST, lengths_of, step_forms
from memmodel.gpus import Gpu
from memmodel.models.predict import title_of
from memmodel.models.setting import ModelCase
from memmodel.models.sweep import FEW_TOKENS
from memmodel.step import room_bytes

_WALLS = (1, 2, 4, 8, 16, 32, 64)


def step_page(case: ModelCase, gpus: Sequence[Gpu]) -> str:
    """The file: HTML that shows what fills the peak of a case's step, by batch, length and GPU.

    Raises UsageError for a step whose bytes are no closed form, for ranks of many GPUs, and where no GPU's capacity is
    known.
    """
    if case.layout.world > 1 or case.framework == "megatron":
        raise UsageError("explore of a model on many GPUs: its page is of one GPU, leave the layout out")
    known = [gpu for gpu in gpus if room_bytes(gpu) is not None]
    if not known:
        raise UsageError(f"the capacity of {', '.join(gpu.name for gpu in gpus)} is not known: choose another GPU")
    style = page_style()
    script = f'"use strict";\nconst STEP = {json.dumps(_data(case, known), separators=(",", ":"))};\n{asset("step.js")}'
    policy = f"default-src 'none'; img-src data:; style-src {inline_hash(style)}; script-src {inline_hash(script)}"
    controls = {"batch": "batch", "seq": "sequence"}
    setting = [words for words in case.describe().split(", ") if not words.startswith(("batch ", "seq "))]
    parts = {
        "policy": f"{policy}; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "sizes": "\n".join(size_control(name, label) for name, label in controls.items()),
        "model": html.escape(case.arch.name),
        "title": title_of(case),
        "setting": html.escape(", ".join(setting)),
    }
    return filled("step.html", parts)


def _data(case: ModelCase, gpus: Sequence[Gpu]) -> dict[str, Any]:
    forms, by_gpu = step_forms(case, gpus)
    lengths = lengths_of(case)
    nearest = min(lengths, key=lambda length: abs(length - int(case.seq)))
    return {
        "groups": list(GROUPS),
        "forms": forms,
        "gpus": [{"id": g.id, "name": g.name, "room": room_bytes(g), "forms": by_gpu[g.id]} for g in gpus],
        "gpu": gpus[0].id,
        "few": FEW_TOKENS,
        "window": int(case.arch.window),
        "lengths": lengths,
        "batches": list(range(1, MOST + 1)),
        "batch": min(int(case.batch), MOST),
        "seq": nearest,
        "walls": _WALLS,
    }

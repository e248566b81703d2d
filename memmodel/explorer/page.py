"""The page: tables of programs, the GPUs' data and the scripts, in one file that loads nothing."""

import base64
import gzip
import hashlib
import json
import re
import string
from collections.abc import Mapping
from dataclasses import astuple
from importlib.resources import files
from typing import Any

from memmodel import __version__
from memmodel.algorithms import ALGORITHMS, Algorithm
from memmodel.base import dtypes
from memmodel.explorer.linker import linked
from memmodel.explorer.programs import OFFERED, PHASE_NAMES, Tables, tables
from memmodel.explorer.rules import NATIVE, RUN
from memmodel.gpus import Gpu, all_gpus

SCRIPTS = ("programs", "state", "model", "picture", "bar", "controls")
SIZES = {  # label by id in the page
    "batch": "batch",
    "heads": "heads",
    "kvHeads": "kv-heads",
    "seq": "sequence",
    "headDim": "head dim",
    "window": "window, keys",
}
_SAFE = {ord("<"): "."}  # "<" could end the script
_SIGNS = f"{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}!#$%&()*+-;<=>?@^_`{{|}}~".translate(_SAFE)


def explorer_page() -> str:
    """The file: HTML that computes predictions by itself."""
    style = page_style()
    script = _packed(_script(tables())) + asset("loader.js")
    # Nothing may be loaded or run but this style, this script, and the blob that it unpacks itself into.
    policy = (
        f"default-src 'none'; img-src data:; style-src {inline_hash(style)}; script-src {inline_hash(script)} blob:"
    )
    parts = {
        "policy": f"{policy}; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "sizes": "\n".join(size_control(name, label) for name, label in SIZES.items()),
    }
    return filled("page.html", parts)


def page_style() -> str:
    """The style of every page."""
    return re.sub(r"\n +", "\n", asset("page.css"))  # the file is sent around: no indents


def filled(name: str, parts: Mapping[str, str]) -> str:
    """A file of this package with its {{parts}} in place."""
    page = asset(name)
    for part, text in {**parts, "version": __version__}.items():
        page = page.replace(f"{{{{{part}}}}}", text)
    return page


def asset(name: str) -> str:
    """The text of a file of this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _script(found: Tables) -> str:
    """One function around everything: the page's only global is `memmodel`."""
    own = "".join(asset(f"{name}.js") for name in SCRIPTS)
    rules = linked(RUN, NATIVE, set(re.findall(r"\w+", own)))
    data = json.dumps(_data(found), separators=(",", ":"), ensure_ascii=False)
    formulas = ",\n".join(found.formulas)
    parts = (
        f"const TABLES = {data};",
        f"const FORMULAS = [\n{formulas}\n];",
        f"const model = (() => {{\n{rules}\n}})();",
        own,
    )
    script = "\n".join(['(() => {\n"use strict";', *parts, "})();"])
    return re.sub(r"^ *//.*\n", "", script, flags=re.MULTILINE)  # comments are for the files, as indents are above


def inline_hash(text: str) -> str:
    """The hash by which a content security policy allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(text: str) -> str:
    """A script's constants: the text compressed, in base 85, which takes 6 % less than base 64; and its bytes."""
    data = gzip.compress(text.encode(), mtime=0)
    signs = base64.b85encode(data, pad=True).decode().translate(_SAFE)
    return f'const SIGNS = "{_SIGNS}";\nconst LENGTH = {len(data)};\nconst PACKED = "{signs}";\n'


def size_control(name: str, label: str) -> str:
    """A size's number box and slider."""
    box = f'<input type="text" id="{name}" inputmode="numeric" autocomplete="off" spellcheck="false">'
    slider = f'<input type="range" id="{name}-slider" min="0" aria-label="{label}, slider">'
    return f'<div class="size" id="{name}-row"><label for="{name}">{label}</label>{box}{slider}</div>'


def _data(found: Tables) -> dict[str, Any]:
    return {
        "keys": found.keys,
        "phases": PHASE_NAMES,
        "programs": list(found.programs),
        "kernels": list(found.kernels),
        "names": list(found.names),
        "groups": list(found.groups),
        "dtypes": {kind.name: [*astuple(kind)] for kind in vars(dtypes).values() if isinstance(kind, dtypes.DType)},
        "algorithms": {name: _algorithm(ALGORITHMS[name]) for name in OFFERED},
        "gpus": [_gpu(gpu) for gpu in all_gpus() if "capacity" in gpu.values],
    }


def _algorithm(found: Algorithm) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("name", "title", "dropout", "fused", "tiled", "chooses", "note")}


def _gpu(gpu: Gpu) -> dict[str, Any]:
    """The data of a GPU that predictions read, in SI base units."""
    values = {quantity: value.value for quantity, value in gpu.values.items()}
    named = {name: getattr(gpu, name) for name in ("id", "name", "arch", "compute_capability")}
    return {**named, "values": values}

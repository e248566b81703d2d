"""The page: tables of programs, the GPUs' data and the scripts, in one file that loads nothing."""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from memmodel import __version__
from memmodel.algorithms import ALGORITHMS
from memmodel.case import Case
from memmodel.cublas import DEFAULT_TORCH, workspace
from memmodel.dtypes import bfloat16, float32
from memmodel.explorer.programs import OFFERED, Tables, tables
from memmodel.gpus import Gpu, all_gpus
from memmodel.pictures.roofline import roofs
from memmodel.predictor import on_gpu, own_arch
from memmodel.tiles import FAMILY, MAX_HEAD_DIM, Tile
from memmodel.timing import Machine
from memmodel.timing.terms import exp_known
from memmodel_kernels.flash import flash_tiles

SCRIPTS = (
    *("units", "allocator", "programs", "work", "timeline", "state", "model"),
    *("frontier", "draw", "bar_picture", "timeline_picture", "roofline_picture", "frontier_picture"),
    *("controls", "main"),
)
SIZES = {  # label by id in the page
    "batch": "batch",
    "heads": "heads",
    "kvHeads": "kv-heads",
    "seq": "sequence",
    "headDim": "head dim",
    "window": "window, keys",
}


def explorer_page() -> str:
    """The file: HTML that computes predictions by itself."""
    found = tables()
    style, script = _asset("page.css"), _escaped(_script(found))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    parts = {
        "policy": f"{policy}; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "sizes": "\n".join(_size(name, label) for name, label in SIZES.items()),
        "version": __version__,
    }
    page = _asset("page.html")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _script(found: Tables) -> str:
    """One function around everything: the page's only global is `memmodel`."""
    formulas = ",\n".join(found.formulas)
    data = f'const FORMULAS = [\n{formulas}\n];\nconst PACKED = "{_packed(_data(found))}";'
    return "\n".join(['(() => {\n"use strict";', data, *(_asset(f"{name}.js") for name in SCRIPTS), "})();"])


def _escaped(script: str) -> str:
    """A script in which HTML's parser finds neither its end nor a comment; the strings in it stay the same."""
    return script.replace("</", r"<\/").replace("<!--", r"<\!--")


def _hash(text: str) -> str:
    """What a content security policy knows an inline script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(data: Any) -> str:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _size(name: str, label: str) -> str:
    """A size's number box and slider."""
    box = f'<input type="text" id="{name}" inputmode="numeric" autocomplete="off" spellcheck="false">'
    slider = f'<input type="range" id="{name}-slider" min="0" aria-label="{label}, slider">'
    return f'<div class="size" id="{name}-row"><label for="{name}">{label}</label>{box}{slider}</div>'


def _data(found: Tables) -> dict[str, Any]:
    return {
        "keys": found.keys,
        "programs": list(found.programs),
        "kernels": list(found.kernels),
        "names": list(found.names),
        "algorithms": {name: ALGORITHMS[name].title for name in OFFERED},
        "gpus": [_gpu(gpu) for gpu in all_gpus() if "capacity" in gpu.values],
        "tiles": {str(arch): dict(_tiles(arch)) for arch in FAMILY},
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    """What predictions need of a GPU: bytes, and rates per second."""
    (case,) = on_gpu([Case()], gpu)
    known = {q: gpu.value(q) for q in gpu.values if q.startswith(("tensor.", "vector."))}
    known |= {q: gpu.value(q) for q in ("bandwidth", "sm_count", "l2") if q in gpu.values}
    return {
        "id": gpu.id,
        "name": gpu.name,
        "arch": case.device.arch,
        "kernels": own_arch(gpu) is not None,
        "capacity": gpu.capacity_bytes,
        "context": gpu.context_bytes[1] if gpu.context_bytes else 0,
        "workspace": workspace(DEFAULT_TORCH, gpu.compute_capability).nbytes,
        "values": known,
        "expRate": gpu.exp_rate if exp_known(Machine(gpu)) else None,
        "roofs": [{"name": roof.name, "rate": roof.rate} for roof in roofs(gpu)],
    }


def _tiles(arch: int) -> Iterator[tuple[str, dict[int, dict[str, int]]]]:
    """Rows and columns of the tiles of each pass, by kind of dtype and padded head dim, named as in the formulas."""
    head_dims = [1 << power for power in range(4, MAX_HEAD_DIM.bit_length())]
    for kind, dtype in (("half", bfloat16), ("fp32", float32)):
        yield kind, {d: dict(_lengths(flash_tiles(arch, dtype, d)._asdict())) for d in head_dims}


def _lengths(tiles: dict[str, Tile | None]) -> Iterator[tuple[str, int]]:
    for name, tile in tiles.items():
        if tile is not None:
            yield from ((f"{name}Rows", tile.rows), (f"{name}Cols", tile.cols))

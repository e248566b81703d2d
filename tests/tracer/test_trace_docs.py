"""docs/trace.md: its JSON keys are the printed ones."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
import traced_functions as functions
from traced_functions import INPUTS, SIZES

import memmodel

PAGE = (Path(__file__).parents[2] / "docs" / "trace.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(?P<key>[^`]+)` \| (?P<type>[^|]+) \| [^|]+ \|$", re.MULTILINE)
ROWS = {match["key"]: match["type"] for match in ROW.finditer(PAGE.partition("## JSON")[2])}
TYPES = {"int": int, "str": str, "bool": bool, "object": dict, "null": type(None)}
WHOLE = (
    "sizes",
    "gpu",
    "memory",
    "time",
    "calibrated_time",
    "formulas.fixed",
    "formulas.letters",
    "tensors",
    "unknown",
)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if path in ROWS:
        yield path, value
    if path in WHOLE or ROWS.get(path, "").startswith("list"):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            name = "<phase>" if path == "formulas.peaks" else key
            yield from leaves(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    elif path not in ROWS:
        yield path, value


def agrees(value: Any, kind: str) -> bool:
    if kind.startswith("list of "):
        return all(agrees(x, kind.removeprefix("list of ")) for x in value)
    return any(type(value) is TYPES[name] for name in kind.split(" or "))


def summed_over_ranks(q: Any, k: Any, v: Any) -> Any:
    dist.all_reduce(total := q + k + v)
    return total


def test_documented_keys_are_the_printed_ones() -> None:
    seen = set()
    many: list[dict[str, Any]] = [
        {"step": "train"}, {"over": "N"}, {"formulas": False}, {"compiled": True, "gpu": "L4"}, {"world": 2}
    ]  # fmt: skip
    for options in many:
        chosen: Any = {"gpu": "T4"} | options
        fn = functions.library_attention if options.get("over") else functions.three_names
        fn = summed_over_ranks if options.get("world") else fn
        found = memmodel.trace(fn, INPUTS, at=SIZES, **chosen)
        for key, value in leaves(json.loads(json.dumps(found.to_dict()))):
            assert key in ROWS
            assert agrees(value, ROWS[key]), f"{key} is {value!r}"
            seen.add(key)
    assert seen == set(ROWS)

"""docs/trace.md: its JSON keys are the printed ones."""

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist
import traced_functions as functions
from traced_functions import INPUTS, SIZES

import memmodel
from json_tables import problems, rows_of

PAGE = (Path(__file__).parents[2] / "docs" / "trace.md").read_text(encoding="utf-8")
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


def summed_over_ranks(q: Any, k: Any, v: Any) -> Any:
    dist.all_reduce(total := q + k + v)
    return total


def test_documented_keys_are_the_printed_ones() -> None:
    documents = []
    many: list[dict[str, Any]] = [
        {"step": "train"}, {"over": "N"}, {"formulas": False}, {"compiled": True, "gpu": "L4"}, {"world": 2}
    ]  # fmt: skip
    for options in many:
        chosen: Any = {"gpu": "T4"} | options
        fn = functions.library_attention if options.get("over") else functions.three_names
        fn = summed_over_ranks if options.get("world") else fn
        documents.append(memmodel.trace(fn, INPUTS, at=SIZES, **chosen).to_dict())
    printed = json.loads(json.dumps(documents))
    assert problems(printed, rows_of(PAGE.partition("## JSON")[2]), WHOLE) == []

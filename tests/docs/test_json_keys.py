"""docs/json.md against the JSON that commands print: every key documented, every documented key printed, types too."""

import json
import re
from pathlib import Path

import pytest

from json_tables import Rows, problems, rows_of
from transcripts import command_output

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
SHARED = ("gpu", "case", "memory")
_DECODED = "max --like gpt2 --phase inference -a decode --seq 1 --over kv-seq --step 65536 --json"
COMMANDS = {
    "predict": (
        "predict --gpu H100 --seq 16384 --json",
        "predict --gpu A10 --mask window --window 64 -a flash --json",
        "predict --gpu A10 --json",
        "predict --gpu A10 -a sdpa --kv-heads 8 --mask window --window 64 --json",
        "predict --gpu T4 --json",
        "predict --like gpt2 --phase inference -a decode --seq 1 --kv-seq 64 --page-size 16 --cache-dtype fp8 "
        "--num-splits 1 --json",
        "predict --like gpt2 --json",
    ),
    "model": (
        "model --like gpt2 --gpu H100 --seq 512 --lora 4 --lora-targets qkv --json",
        "model --like gpt2 --gpu T4 --seq 256 --attention naive --json",
        "model --like gpt2 --phase decode --seq 512 --json",
        "model --like qwen3-0.6b --gpu H100 --seq 512 --tp 2 --json",
    ),
    "max": ("max --gpu H100 --step 1024 --json", "max --gpu T4 --batch 65536 --seq 64k -a naive --json", _DECODED),
    "compare": (
        "compare --gpu H100,A10,T4,MI210 --price H100=2.5 --phase inference --mask window --window 64 --json",
        "compare --gpu jetson-agx-orin-64gb,H100 --seq 65536 --batch 64 -a naive --json",
    ),
    "formulas": ("formulas naive --json",),
    "gpus": ("gpus --json", "gpus A100 --json"),
    "models": ("models --json",),
    "sweep": (
        "sweep --seq 1k,2k --format json",
        "sweep --gpu A10,A100,jetson-agx-orin-64gb --seq 1k --mask window --window 64 --json",
    ),
}


def section(title: str) -> Rows:
    """Type by key of the table under a heading."""
    text = re.split(r"^#+ ", PAGE.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows: Rows = {}
    for key, kind in rows_of(text).items():
        rows |= expanded(key, kind)
    return rows


def expanded(key: str, kind: str) -> Rows:
    """A row, its shared object written out."""
    shared, _, null = kind.partition(" or ")
    if shared not in SHARED:
        return {key: kind}
    return {key: f"object or {null}" if null else "object"} | {f"{key}.{k}": t for k, t in section(shared).items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_keys_are_the_printed_ones(command: str) -> None:
    documents = [json.loads(command_output(line)) for line in COMMANDS[command]]
    assert problems(documents, section(command)) == []


def test_every_command_with_json_has_a_section() -> None:
    from memmodel.cli import commands

    elsewhere = {"replay", "validate", "calibrate", "accuracy"}  # docs/replay.md, docs/validation.md, docs/time.md
    elsewhere |= {"trace"}  # docs/trace.md
    elsewhere |= {"timeline", "roofline", "frontier", "report"}  # docs/pictures.md
    elsewhere |= {"explore"}  # docs/explorer.md: a page, no numbers
    assert set(commands.COMMANDS) - {"completion"} - elsewhere == set(COMMANDS)
    assert all(section(command) for command in COMMANDS)

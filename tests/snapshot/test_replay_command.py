"""`memmodel replay` as a user meets it, and its page of documentation."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from snapshot_data import MODEL, MiB, Recording, frame, written

import memmodel
from memmodel import cli as module
from memmodel.cli import cli
from memmodel.cli.commands import BYTES
from memmodel_evidence.traces import load_trace

ROOT = Path(memmodel.__file__).parents[1]
PAGE = (ROOT / "docs" / "replay.md").read_text(encoding="utf-8")
DOCUMENTED = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
TYPES: dict[str, type] = {"int": int, "str": str, "bool": bool, "null": type(None), "object": dict}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["replay", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def out_of_memory(folder: Path) -> str:
    """40 MiB in halves of segments, 60 in all, and 22 MiB asked for."""
    recording = Recording(capacity=60 * MiB)
    recording.malloc(5 * MiB)
    since = len(recording.events)
    blocks = [recording.malloc(9 * MiB, frames=MODEL) for _ in range(4)]
    recording.free(blocks[1])
    recording.free(blocks[2])
    recording.malloc(22 * MiB)
    return written(recording.data(since), folder)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(load_trace("okazaki-small-training"), tmp_path_factory.mktemp("traces"))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_recorded_trace_is_told(protocol: int, tmp_path: Path) -> None:
    path = written(load_trace("okazaki-small-forward"), tmp_path, protocol)
    output = run(path)
    assert "replayed as recorded: all 644 addresses are the real allocator's" in output
    for needed in ("allocated", "reserved peak", "What fills the allocated peak", "Free at the end", "█"):
        assert needed in output
    assert "fits" not in output  # no capacity is known


def test_another_setting_beside_its_control(trace: str) -> None:
    output = run(trace, "--alloc-conf", "expandable_segments:True", "--gpu", "A100-40GB")
    assert "as asked: fits in 38." in output
    heads = next(line for line in output.splitlines() if line.startswith("in the recorded window"))
    assert re.split(r"\s{2,}", heads)[1:] == ["recorded", "same settings", "as asked"]


def test_what_does_not_fit_says_where(trace: str) -> None:
    output = run(trace, "--capacity", "2.2 GiB")
    assert re.search(r"^fits +yes +NO, at event \d+$", output, re.MULTILINE)
    assert re.search(r"replayed: does not fit in 2.20 GiB: at event \d+ ", " ".join(output.split()))
    small = run(trace, "--capacity", "100MiB")
    assert "before the first event" in " ".join(small.split())
    assert "NO, at its start" in small


def test_an_out_of_memory_error_is_told(tmp_path: Path) -> None:
    output = run(out_of_memory(tmp_path))
    assert "Out of memory when recorded" in output
    assert "22.00 MiB are asked for with" in output
    assert "NO, at event" in output


def test_the_screen_is_80_columns_wide_and_obeys_no_file(tmp_path: Path) -> None:
    recording = Recording()
    hostile = "\x1b[31m[bold]\u202e\ud800[/red]" + "very_long_name" * 10
    recording.malloc(5 * MiB, frames=[frame(f"/home/{hostile}.py", 4_000_000_000, hostile)])
    data = recording.data()
    data["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] = hostile
    output = run(written(data, tmp_path))
    assert max(map(len, output.splitlines())) <= 80
    assert "\x1b" not in output
    assert output.count("?[31m[bold]??[/red]very_long_name") == 2  # the account and a note


def test_long_names_are_cut(tmp_path: Path) -> None:
    recording = Recording()
    recording.malloc(5 * MiB, frames=[frame("/home/" + "a" * 200_000 + ".py", 1, "f" * 200_000)])
    data = recording.data()
    data["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] = "max_split_size_mb" * 20_000
    data["device_traces"][0][0]["action"] = "odd" * 100_000
    path = written(data, tmp_path)
    assert len(run(path)) < 5_000
    assert len(run(path, "--json")) < 10_000


def test_the_mark_stands_below_the_highest_bar(trace: str) -> None:
    lines = run(trace).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("allocated "))
    assert lines[start][lines[start + 2].index("^")] == "█"
    assert lines[start + 2].endswith("peak after event 1679")
    document = json.loads(run(trace, "--json"))
    assert document["peak"]["event"] == 1679


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(key as documented, value) of everything in the JSON that is no container of other keys."""
    if DOCUMENTED.get(path, "").startswith("list of"):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path, value


def test_json_has_the_documented_keys_and_types(tmp_path: Path, trace: str) -> None:
    path = out_of_memory(tmp_path)
    documents = [json.loads(run(path, "--json")), json.loads(run(trace, "--json", "--capacity", "3GiB"))]
    found: dict[str, set[type]] = {}
    for document in documents:
        for key, value in leaves(document):
            found.setdefault(key, set()).add(type(value))
    wholes = {key for key, kind in DOCUMENTED.items() if kind.startswith("object")}
    assert found.keys() | wholes == DOCUMENTED.keys()
    for key, kinds in found.items():
        if not DOCUMENTED[key].startswith("list of"):
            assert kinds <= {TYPES[kind] for kind in DOCUMENTED[key].split(" or ")}, key


def test_json_and_screen_agree(trace: str) -> None:
    document = json.loads(run(trace, "--json"))
    assert document["addresses"] == {"equal": 3310, "compared": 3310, "first_different_event": None}
    assert document["peak"]["allocated_bytes"] == max(part["allocated_bytes"] for part in document["timeline"])
    assert sum(entry["bytes"] for entry in document["account"]) == document["peak"]["allocated_bytes"]
    assert len(document["timeline"]) == 200


WRONG = [
    (["/nowhere/snapshot.pickle"], "cannot read /nowhere/snapshot.pickle"),
    (["."], ". is no regular file"),
    ([], "Missing argument 'SNAPSHOT'"),
    (["TRACE", "--device", "3"], "holds nothing of device 3: choose --device 0"),
    (["TRACE", "--alloc-conf", "expandable_segment:True"], "did you mean expandable_segments"),
    (
        ["TRACE", "--alloc-conf", "backend:native", "--torch", "1.13"],
        "torch version 1.13: the model was",
    ),
    (["TRACE", "--capacity", "many"], "--capacity many: expected memory such as 40GiB"),
    (["TRACE", "--capacity", "0"], "expected memory such as 40GiB"),
    (["TRACE", "--capacity", "-4GiB"], "expected memory such as 40GiB"),
    (["TRACE", "--capacity", "4XiB"], "expected memory such as 40GiB"),
    (["TRACE", "--capacity", "1_0GiB"], "expected memory such as 40GiB"),
    (["TRACE", "--capacity", "inf"], "expected memory such as 40GiB"),
    (["TRACE", "--capacity", "4GiB", "--gpu", "A100"], "give one of them"),
    (["TRACE", "--gpu", "A1000"], "unknown GPU 'A1000'"),
    (["TRACE", "--gpu", "B100"], "give --capacity"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_wrong_use_is_one_sentence_and_status_2(
    arguments: list[str],
    message: str,
    trace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [trace if argument == "TRACE" else argument for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["memmodel", "replay", *given])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(("text", "size"), [("40GiB", 40 << 30), ("1.5 MiB", 3 << 19), ("24GB", 24 * 10**9), ("7", 7)])
def test_capacities(text: str, size: int) -> None:
    assert BYTES.read(text, "--capacity") == size


def test_it_comes_without_the_heavy_libraries(trace: str) -> None:
    code = (
        "import sys, os; os._exit = lambda status: print([m for m in "
        "('torch', 'triton', 'numpy', 'sympy') if m in sys.modules], file=sys.stderr);"
        f"sys.argv = ['memmodel', 'replay', {trace!r}, '--gpu', 'A100']; from memmodel.cli import main; main()"
    )
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "validate"))
    env = {**os.environ, "PYTHONPATH": paths}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert result.stderr.strip() == "[]"

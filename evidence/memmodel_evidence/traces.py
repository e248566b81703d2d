"""Recorded allocator traces: the events of real CUDA memory snapshots, and the segments at their end.

`traces.csv` says where each is from; `traces/NAME.csv.xz` has a line per event, then a line per segment, each
followed by its blocks in use. `detail` is a segment's pool, or the bytes that a block was asked for.
"""

import csv
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import msgspec

from memmodel.base.errors import UsageError
from memmodel_evidence.records import DATA

Action = Literal["alloc", "free_requested", "free_completed", "segment_alloc", "segment_free"]


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a trace is from: the snapshot's repository, path and commit, and its GPU."""

    trace: str
    repo: str
    path: str
    commit: str
    gpu: str


@dataclass(frozen=True, slots=True)
class _Line:
    record: Action | Literal["segment", "block"]
    address: int
    size: int
    stream: int
    detail: Literal["small", "large", ""] | int


@cache
def traces() -> dict[str, Trace]:
    """The traces, by name."""
    lines = csv.DictReader((DATA / "traces.csv").read_text(encoding="utf-8").splitlines())
    return {line["trace"]: msgspec.convert(line, Trace) for line in lines}


def load_trace(name: str) -> dict[str, Any]:
    """A trace as the plain data of a snapshot, for `memmodel.snapshot`. Raises UsageError that names a wrong line."""
    path = DATA / "traces" / f"{name}.csv.xz"
    lines = []
    for number, line in enumerate(csv.DictReader(lzma.decompress(path.read_bytes()).decode().splitlines()), start=2):
        try:
            lines.append(_parsed(line))
        except (msgspec.ValidationError, ValueError) as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
    events = [
        {"action": x.record, "addr": x.address, "size": x.size, "stream": x.stream}
        for x in lines
        if x.record in get_args(Action)
    ]
    return {"device_traces": [events], "segments": list(_segments(lines))}


def _parsed(line: dict[str, str]) -> _Line:
    found = msgspec.convert({**line, "address": int(line["address"], 16)}, _Line, strict=False)
    if isinstance(found.detail, int) != (found.record == "block") or (found.record == "segment" and not found.detail):
        raise ValueError(f"the detail of a {found.record} is {found.detail!r}")
    return found


def _segments(lines: Sequence[_Line]) -> Iterator[dict[str, Any]]:
    """Each segment with its blocks; the gaps between those in use are free blocks."""
    starts = [i for i, line in enumerate(lines) if line.record == "segment"]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        segment, position = lines[start], lines[start].address
        blocks: list[dict[str, Any]] = []
        for block in sorted(lines[start + 1 : end], key=lambda line: line.address):
            blocks += _gap(block.address - position)
            blocks.append({"size": block.size, "requested_size": block.detail, "state": "active_allocated"})
            position = block.address + block.size
        blocks += _gap(segment.address + segment.size - position)
        yield {
            "address": segment.address,
            "total_size": segment.size,
            "stream": segment.stream,
            "segment_type": segment.detail,
            "blocks": blocks,
        }


def _gap(size: int) -> list[dict[str, Any]]:
    return [{"size": size, "requested_size": 0, "state": "inactive"}] if size else []

"""Recorded allocator traces: the events of real CUDA memory snapshots, and the segments at their end.

`traces.csv` says where each is from; `traces/NAME.csv.xz` has a line per event, then a line per segment, each
followed by its blocks in use. `detail` is a segment's pool, or the bytes that a block was asked for.
"""

import csv
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from memmodel.errors import UsageError
from memmodel_evidence.records import DATA

T = TypeVar("T")
_FIELDS = ("record", "address", "size", "stream", "detail")
_EVENTS = ("alloc", "free_requested", "free_completed", "segment_alloc", "segment_free")


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a trace is from: the snapshot's repository, path and commit, and its GPU."""

    name: str
    repo: str
    path: str
    commit: str
    gpu: str


@dataclass(frozen=True, slots=True)
class _Line:
    record: str
    address: int
    size: int
    stream: int
    detail: str


@cache
def traces() -> dict[str, Trace]:
    """The traces, by name."""
    fields = ("trace", "repo", "path", "commit", "gpu")
    found = read_lines(DATA / "traces.csv", fields, lambda line: Trace(*line.values()))
    return {trace.name: trace for trace in found}


def load_trace(name: str) -> dict[str, Any]:
    """A trace as the plain data of a snapshot, for `memmodel.snapshot`. Raises UsageError for another form of file."""
    path = DATA / "traces" / f"{name}.csv.xz"
    lines = parse_lines(lzma.decompress(path.read_bytes()).decode(), str(path), _FIELDS, _line)
    events = [
        {"action": x.record, "addr": x.address, "size": x.size, "stream": x.stream}
        for x in lines
        if x.record in _EVENTS
    ]
    return {"device_traces": [events], "segments": list(_segments(lines))}


def _segments(lines: tuple[_Line, ...]) -> Iterator[dict[str, Any]]:
    """Each segment with its blocks; the gaps between those in use are free blocks."""
    starts = [i for i, line in enumerate(lines) if line.record == "segment"]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        segment, position = lines[start], lines[start].address
        blocks: list[dict[str, Any]] = []
        for block in sorted(lines[start + 1 : end], key=lambda line: line.address):
            blocks += _gap(block.address - position)
            blocks.append({"size": block.size, "requested_size": int(block.detail), "state": "active_allocated"})
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


def _line(line: dict[str, str]) -> _Line:
    record, detail = line["record"], line["detail"]
    if record not in (*_EVENTS, "segment", "block"):
        raise ValueError(f"{record!r} is no record: expected segment, block, {', '.join(_EVENTS)}")
    if record == "segment" and detail not in ("small", "large"):
        raise ValueError(f"{detail!r} is no pool: expected small or large")
    if record == "block":
        int(detail)
    return _Line(record, int(line["address"], 16), int(line["size"]), int(line["stream"]), detail)


def read_lines(path: Path, fields: tuple[str, ...], parse: Callable[[dict[str, str]], T]) -> tuple[T, ...]:
    """Parse each line of a CSV file with the header `fields`. Raises UsageError that names file and line."""
    return parse_lines(path.read_text(encoding="utf-8"), str(path), fields, parse)


def parse_lines(text: str, name: str, fields: tuple[str, ...], parse: Callable[[dict[str, str]], T]) -> tuple[T, ...]:
    """`read_lines` of a text; `name` is what an error calls it."""
    header, *lines = list(csv.reader(text.splitlines())) or [[]]
    if tuple(header) != fields:
        raise UsageError(f"{name}, line 1: expected the columns {','.join(fields)}, not {','.join(header)}")
    parsed = []
    for number, values in enumerate(lines, start=2):
        try:
            parsed.append(parse(dict(zip(fields, values, strict=True))))
        except ValueError as error:
            raise UsageError(f"{name}, line {number}: {error}") from error
    return tuple(parsed)

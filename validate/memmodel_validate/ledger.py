"""The ledger: runs on record, as JSON lines. One schema for other people's tables, published figures and our own runs.

A line is a source (where runs are from: machine, protocol, provenance) or a run of one (its case, and what was
measured, with units and raw samples or the text as printed). Each line carries a checksum of itself. Files are only
ever appended to, whole lines at a time, and read back with every line checked: a wrong one is named by file and line.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from statistics import median
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from memmodel.attention.case import SIZES
from memmodel.base.checked import MOST, Text, checked, decoded
from memmodel.base.errors import UsageError, unknown
from memmodel.base.files import read_bytes

SCHEMA = 1
MOST_BYTES = 1 << 28  # of a file: some 100,000 runs

# Each unit: the base unit it is a multiple of, and how many of those it is.
UNITS: dict[str, tuple[str, float]] = {
    "B": ("B", 1),
    "MB": ("B", 1e6),
    "GB": ("B", 1e9),
    "KiB": ("B", 1024),
    "MiB": ("B", 1024**2),
    "GiB": ("B", 1024**3),
    "s": ("s", 1),
    "ms": ("s", 1e-3),
    "us": ("s", 1e-6),
    "FLOP/s": ("FLOP/s", 1),
    "TFLOP/s": ("FLOP/s", 1e12),
    "": ("", 1),
}

# Quantity -> its base unit.
QUANTITIES: dict[str, tuple[str, str]] = {
    "forward_time": ("s", "one forward"),
    "backward_time": ("s", "one backward"),
    "step_time": ("s", "forward and backward"),
    "forward_rate": ("FLOP/s", "of one forward, by the source's count of FLOP"),
    "backward_rate": ("FLOP/s", "of one backward, by the source's count of FLOP"),
    "step_rate": ("FLOP/s", "of forward and backward, by the source's count of FLOP"),
    "mem_after_inputs": ("B", "allocated when the inputs are there"),
    "mem_before_backward": ("B", "allocated between forward and backward"),
    "saved": ("B", "kept from forward for backward"),
    "peak_fwd": ("B", "allocated peak of the forward"),
    "peak_bwd": ("B", "allocated peak of the backward"),
    "peak_total": ("B", "allocated peak since the source's last reset"),
    "live_peak": ("B", "storages alive at once"),
    "live_peak_fwd": ("B", "storages alive at once in the forward"),
    "live_peak_bwd": ("B", "storages alive at once in the backward"),
    "allocated_peak": ("B", "allocator blocks at once, in the step"),
    "reserved_peak": ("B", "segments held at once, in the step"),
    "reserved_peak_fwd": ("B", "segments held at once in the forward"),
    "reserved_peak_bwd": ("B", "segments held at once in the backward"),
    "context": ("B", "device memory of the process outside the allocator"),
    "events": ("", "allocations and frees of the step"),
    "events_equal": ("", "of these, those that the model has at the same place with the same bytes"),
    "largest_seq": ("", "the longest sequence that ran"),
    "first_failing_seq": ("", "the shortest sequence, on the same grid, that did not"),
}
Sample = Annotated[float, Meta(ge=0, le=MOST)]


class Measurement(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A measured quantity in a unit of `UNITS`: raw samples, or the text that a table prints."""

    unit: str
    samples: tuple[Sample, ...] = ()
    printed: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError unless there is exactly one of samples and a printed number."""
        if self.unit not in UNITS:
            raise ValueError(f"the unit is {self.unit!r}, expected one of {', '.join(map(repr, UNITS))}")
        if bool(self.samples) == bool(self.printed):
            raise ValueError("either samples or printed is needed")
        if self.printed and not _is_number(self.printed):
            raise ValueError(f"printed as {self.printed!r}, expected the text of a number from 0 to {MOST:g}")

    @property
    def value(self) -> float:
        """In the base unit: the median of the samples, or the printed number."""
        return (float(self.printed) if self.printed else median(self.samples)) * UNITS[self.unit][1]


def _is_number(text: str) -> bool:
    try:
        return 0 <= float(text) <= MOST  # false for nan
    except ValueError:
        return False


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """The source of runs.

    Attributes:
        name: unique in the ledger. environment: gpu, gpu_id (of the database, "" where not known), torch, triton,
            driver, cpu, ... protocol: how it was measured: what a time holds, how memory was printed, warm-up, repeats.
        provenance: repo, path, commit; or a citation; or "own run" with its date.
    """

    name: Text
    environment: dict[str, Text]
    protocol: dict[str, Text] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def gpu(self) -> str:
        """The GPU as the source names it; "not stated" where it does not."""
        return self.environment.get("gpu", "not stated")

    @property
    def gpu_id(self) -> str:
        """The database's id of the GPU; empty where it is not known."""
        return self.environment.get("gpu_id", "")


class Run(Struct, frozen=True, forbid_unknown_fields=True):
    """One measured configuration.

    Attributes:
        source: name of its source. implementation: what ran: one of the algorithms, or as the source names it.
        case: batch, heads, kv_heads, seq, kv_seq, head_dim, dtype, mask, ... as far as they are known.
        measured: quantity -> measurement; empty where it ran out of memory. detail: what else is worth keeping.
    """

    source: Text
    implementation: Text
    case: dict[str, Any]
    measured: dict[str, Measurement]
    out_of_memory: bool = False
    detail: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a size below 1, and for a quantity that is unknown, in a wrong unit, or a time of 0."""
        for name, value in self.case.items():
            if name in _WHOLE and value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}, expected a whole number above 0")
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(f"{name} is {value!r}, expected text without control characters")
        for name, found in self.measured.items():
            if name not in QUANTITIES:
                raise ValueError(str(unknown("quantity", name, QUANTITIES)))
            base, _ = QUANTITIES[name]
            if UNITS[found.unit][0] != base:
                allowed = ", ".join(repr(unit) for unit, (of, _) in UNITS.items() if of == base)
                raise ValueError(f"{name} is in {found.unit!r}, expected one of {allowed}")
            if base in ("s", "FLOP/s") and not found.value:
                raise ValueError(f"{name} is 0")

    def __str__(self) -> str:
        sizes = ", ".join(f"{key} {value}" for key, value in self.case.items())
        return f"{self.source}: {self.implementation}, {sizes}"


_WHOLE = (*SIZES, "chunk", "window", "capacity")
RECORDS: dict[str, type[Source | Run]] = {"source": Source, "run": Run}


@dataclass(frozen=True, slots=True)
class Ledger:
    """The sources by name, and the runs in the order of the files. `incomplete` names files that end within a line."""

    sources: Mapping[str, Source]
    runs: tuple[Run, ...]
    incomplete: tuple[str, ...] = ()

    def of(self, source: str) -> list[Run]:
        """The runs of a source."""
        return [run for run in self.runs if run.source == source]


def read(*paths: str | os.PathLike[str], onto: Ledger | None = None) -> Ledger:
    """The records of some files, every line checked, after those of a ledger that was read before.

    A last line without an end is a write that was interrupted: it is left out and reported, not an error. Raises
    UsageError that names file and line for anything else that is wrong.
    """
    sources: dict[str, Source] = dict(onto.sources) if onto else {}
    runs: list[Run] = list(onto.runs) if onto else []
    incomplete: list[str] = list(onto.incomplete) if onto else []
    for path in paths:
        for where, line, whole in _lines(path):
            if not whole:
                incomplete.append(where)
                continue
            record = _parsed(line, where)
            if isinstance(record, Run):
                if record.source not in sources:
                    raise UsageError(f"{where}: a run of {record.source!r}, which no line before describes")
                runs.append(record)
            elif sources.setdefault(record.name, record) != record:
                raise UsageError(f"{where}: the source {record.name!r} is described a second time, differently")
    return Ledger(sources, tuple(runs), tuple(incomplete))


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, bytes, bool]]:
    """(file and line, the line, whether it has its end)."""
    data = read_bytes(path, "give a ledger that `memmodel validate` wrote", MOST_BYTES)
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        if line.strip():
            yield f"{os.fspath(path)}, line {number}", line, line.endswith(b"\n")


def append(path: str | os.PathLike[str], records: Iterable[Source | Run]) -> None:
    """Add records at the end of a file, all of them or none; whatever is there already stays.

    Writers take turns by a lock. Where a write fails (a full disk), the file is cut back to its last whole line; so is
    what an earlier interruption left of a line. Raises UsageError.
    """
    data = b"".join(_line(record) for record in records)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise UsageError(f"cannot write the ledger {os.fspath(path)} ({error.strerror}): name another file") from error
    try:
        if not S_ISREG(os.fstat(handle).st_mode):
            raise UsageError(f"cannot write the ledger {os.fspath(path)} (it is not a regular file): name another file")
        # Released when the file is closed, also by a process that is killed.
        fcntl.flock(handle, fcntl.LOCK_EX)
        _append(handle, data, os.fspath(path))
    finally:
        os.close(handle)


def _append(handle: int, data: bytes, path: str) -> None:
    size = os.fstat(handle).st_size
    whole = size - _unfinished(handle, size)
    try:
        if whole < size:
            os.ftruncate(handle, whole)  # remove the partial line: its record was never reported as written
        written = 0
        while written < len(data):
            written += os.write(handle, data[written:])
        os.fsync(handle)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, whole)
        raise UsageError(f"cannot write to {path} ({error.strerror}): the ledger is as it was before") from error


def _unfinished(handle: int, size: int) -> int:
    """Bytes of a last line without an end."""
    tail = b""
    while len(tail) < size:
        step = min(size - len(tail), 1 << 16)
        tail = os.pread(handle, step, size - len(tail) - step) + tail
        if b"\n" in tail:
            return len(tail) - tail.rindex(b"\n") - 1
    return len(tail)


def _line(record: Source | Run) -> bytes:
    kind = "source" if isinstance(record, Source) else "run"
    content = {"schema": SCHEMA, "record": kind, **msgspec.to_builtins(record)}
    text = json.dumps({**content, "sha256": checksum(content)}, ensure_ascii=False, separators=(",", ":"))
    _parsed(text.encode(), "a new record")  # refuse to write what could not be read back
    return text.encode() + b"\n"


def checksum(content: Mapping[str, Any]) -> str:
    """The first 16 hex digits of SHA-256 of a record's canonical JSON, its own checksum left out."""
    kept = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parsed(line: bytes, where: str) -> Source | Run:
    content = decoded(line, dict[str, Any], where)
    if content.get("schema") != SCHEMA:
        raise UsageError(f"{where}: schema {content.get('schema')!r}, this version reads {SCHEMA}")
    if content.get("sha256") != checksum(content):
        raise UsageError(f"{where}: the checksum is {content.get('sha256')!r}, not that of the line: it was changed")
    kind = content.get("record")
    if kind not in ("source", "run"):
        raise unknown(f"record in {where}", kind, RECORDS)
    fields = {key: value for key, value in content.items() if key not in ("schema", "record", "sha256")}
    return checked(fields, RECORDS[kind], where)

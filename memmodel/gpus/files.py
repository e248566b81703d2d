"""A GPU file: TOML with a value and its source per line, checked before any of it is used."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from memmodel.errors import UsageError, unknown
from memmodel.gpus.gpu import Gpu, Measured, Value
from memmodel.gpus.keys import KEYS, PEAK_NAMES, PEAK_TABLES, REQUIRED, TEXT_KEYS, MiB, file_key

_KNOWN = (*TEXT_KEYS, "compute_capability", "measured", *KEYS, *PEAK_TABLES)
_BLANK = Gpu(id="", name="", vendor="", arch="", compute_capability=None, values={})


def parse_gpu(document: dict[str, Any], id_: str, where: str, base: Gpu | None = None) -> Gpu:
    """Check and read the GPU in `document`, starting from `base`. `where` is the file's name for messages."""
    for key in document:
        if key not in _KNOWN:
            raise unknown(f"key in {where}", key, _KNOWN)
    start = base or _BLANK
    gpu = replace(
        start,
        id=id_,
        values={**start.values, **_values(document, where)},
        measured=(*start.measured, *_measured(document, where)),
        compute_capability=_compute_capability(document, where) or start.compute_capability,
        **{key: _text(document[key], key, where) for key in TEXT_KEYS if key in document},
    )
    _check(gpu, where)
    return gpu


def _check(gpu: Gpu, where: str) -> None:
    if not gpu.name:
        raise UsageError(f'{where} has no name: add `name = "..."`, or `base = "..."` to start from a known GPU')
    for quantity in REQUIRED:
        if quantity not in gpu.values:
            raise UsageError(f"{where} has no {file_key(quantity)}: every GPU needs it")
    low, high = gpu.context_bytes or (0, 0)
    if low > high:
        raise UsageError(f"{where}: context_low_MiB {low / MiB:g} is above context_high_MiB {high / MiB:g}")


def _values(document: dict[str, Any], where: str) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key, quantity, factor, raw in _entries(document, where):
        if quantity in values:
            raise UsageError(f"{where}: {key} gives {quantity} a second time, in another unit")
        values[quantity] = _value(raw, key, factor, where)
    return values


def _entries(document: dict[str, Any], where: str) -> Iterator[tuple[str, str, float, object]]:
    """(key as written, quantity, factor to the base unit, what the file gives) for each value of the file."""
    for key, (quantity, factor) in KEYS.items():
        if key in document:
            yield key, quantity, factor, document[key]
    for table, pipe in PEAK_TABLES.items():
        for name, raw in _table(document.get(table, {}), table, where).items():
            if name not in PEAK_NAMES:
                raise unknown(f"element type in {table} of {where}", name, PEAK_NAMES)
            yield f"{table}.{name}", f"{pipe}.{name}", 1e12, raw


def _value(raw: object, key: str, factor: float, where: str) -> Value:
    """`raw` is a number, or a table of a number with its source and perhaps a note."""
    if not isinstance(raw, dict):
        return Value(_number(raw, key, where) * factor, f"user file {where}")
    for part in raw:
        if part not in ("value", "source", "note"):
            raise unknown(f"part of {key} in {where}", part, ("value", "source", "note"))
    if "value" not in raw:
        raise UsageError(f"{where}: {key} has no value: write `{key} = {{ value = ..., source = ... }}`")
    source = _text(raw.get("source", f"user file {where}"), f"the source of {key}", where)
    return Value(_number(raw["value"], key, where) * factor, source, _text(raw.get("note", ""), key, where))


def _number(raw: object, key: str, where: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise UsageError(f"{where}: {key} must be a number in the unit that its name ends in, not {raw!r}")
    if not math.isfinite(raw) or raw <= 0:
        raise UsageError(f"{where}: {key} must be finite and above 0, not {raw}")
    if key == "sm_count" and raw != int(raw):
        raise UsageError(f"{where}: {key} must be a whole number, not {raw}")
    return raw


def _text(raw: object, key: str, where: str) -> str:
    if not isinstance(raw, str):
        raise UsageError(f"{where}: {key} must be text in quotes, not {raw!r}")
    return raw


def _table(raw: object, key: str, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UsageError(f"{where}: {key} must be a table such as `{key}.bf16 = 312`, not {raw!r}")
    return raw


def _compute_capability(document: dict[str, Any], where: str) -> tuple[int, int] | None:
    if "compute_capability" not in document:
        return None
    given = document["compute_capability"]
    major, _, minor = str(given).partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise UsageError(f'{where}: compute_capability must be such as "9.0", not {given!r}')
    return int(major), int(minor)


def _measured(document: dict[str, Any], where: str) -> Iterator[Measured]:
    entries = document.get("measured", [])
    if not isinstance(entries, list):
        raise UsageError(f"{where}: measured must be a list of tables, not {entries!r}")
    for entry in entries:
        yield _measurement(_table(entry, "measured", where), where)


def _measurement(entry: dict[str, Any], where: str) -> Measured:
    text = {part: _text(raw, part, where) for part, raw in entry.items() if part not in ("TFLOPS", "GBps")}
    for part in text:
        if part not in ("what", "dtype", "source", "note"):
            raise unknown(f"part of measured in {where}", part, ("what", "dtype", "source", "note", "TFLOPS", "GBps"))
    text = {"what": "", "source": f"user file {where}", **text}
    if "TFLOPS" in entry:
        return Measured(rate=_number(entry["TFLOPS"], "TFLOPS", where) * 1e12, unit="FLOP/s", **text)
    if "GBps" in entry:
        return Measured(rate=_number(entry["GBps"], "GBps", where) * 1e9, unit="byte/s", **text)
    raise UsageError(f"{where}: a measured entry needs TFLOPS or GBps, not only {', '.join(entry)}")

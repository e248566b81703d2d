"""Build a Gpu, in SI base units, from the document of a GPU file (TOML: a value and its source per line)."""

from collections.abc import Iterator, Mapping
from typing import Any

from memmodel.gpus.gpu import Gpu, Measured, Value
from memmodel.gpus.keys import KEYS, PEAK_TABLES, TEXT_KEYS

_BLANK = Gpu(id="", name="", vendor="", arch="", compute_capability=None, values={})


def gpu_of(document: Mapping[str, Any], id_: str, source: str = "", base: Gpu = _BLANK) -> Gpu:
    """Build the GPU of a document whose format has been checked, on top of `base`.

    `source` is that of values for which the document gives none.
    """
    return base.replace(
        id=id_,
        base=base.id,
        values={**base.values, **{quantity: _value(raw, f, source) for quantity, f, raw in _entries(document)}},
        measured=(*base.measured, *(_measured(entry, source) for entry in document.get("measured", ()))),
        compute_capability=_compute_capability(document) or base.compute_capability,
        **{key: document[key] for key in TEXT_KEYS if key in document},
    )


def _entries(document: Mapping[str, Any]) -> Iterator[tuple[str, float, Any]]:
    """Yield (quantity, factor to the base unit, number or table) for each value in the document."""
    for key, (quantity, factor) in KEYS.items():
        if key in document:
            yield quantity, factor, document[key]
    for table, pipe in PEAK_TABLES.items():
        for name, raw in document.get(table, {}).items():
            yield f"{pipe}.{name}", 1e12, raw


def _value(raw: Any, factor: float, source: str) -> Value:
    """A value is a number, or a table of a number with its source and perhaps a note."""
    if not isinstance(raw, dict):
        return Value(raw * factor, source)
    return Value(raw["value"] * factor, raw.get("source", source), raw.get("note", ""))


def _compute_capability(document: Mapping[str, Any]) -> tuple[int, int] | None:
    if "compute_capability" not in document:
        return None
    major, _, minor = str(document["compute_capability"]).partition(".")
    return int(major), int(minor or 0)  # 9 is 9.0


def _measured(entry: dict[str, Any], source: str) -> Measured:
    text = {"what": "", "source": source, **entry}
    TFLOPS, GBps = text.pop("TFLOPS", None), text.pop("GBps", None)
    if TFLOPS is not None:
        return Measured(rate=TFLOPS * 1e12, unit="FLOP/s", **text)
    return Measured(rate=GBps * 1e9, unit="byte/s", **text)

"""The format of a calibration file, and the ranges of its values."""

import json
from itertools import pairwise
from typing import Annotated, Any, Literal

from msgspec import Meta

from memmodel.base.checked import MOST, Number, Strict, Text, checked
from memmodel.base.errors import UsageError, unknown
from memmodel.timing.calibration import CONSTANTS, SCHEMA

_NotNegative = Annotated[float, Meta(ge=0, le=MOST)]
_Curve = Annotated[list[tuple[Number, Number]], Meta(min_length=1)]


# The most that a constant of each unit can be: a hundred times any device's and more. A rate that is lower than that by
# eleven orders of magnitude is none's either.
_MOST = {"B/s": 1e15, "op/s": 1e17, "FLOP/s": 1e18, "s": 1.0, "B": 1e12, "cycles": 1e9, "FLOP": 1e6, "": 1e5}
_RATES = ("B/s", "op/s", "FLOP/s")
_LEAST_SHARE = 1e-11


class _Constant(Strict):
    value: Number | _Curve
    origin: Text
    unit: Text | None = None
    spread: _NotNegative | None = None


class _MayBeZero(_Constant):
    value: _NotNegative | _Curve


class _Calibration(Strict):
    schema: int
    kind: str
    name: Text
    basis: Literal["local", "community"]
    machine: dict[str, Text]
    constants: Annotated[dict[str, Any], Meta(min_length=1)]
    notes: tuple[Text, ...] = ()


def check_document(text: bytes, where: str) -> dict[str, Any]:
    """Check the JSON text of a calibration that is called `where`, and return its document. Raises UsageError."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON ({error}): make a calibration with `memmodel calibrate`") from None
    if not isinstance(document, dict) or document.get("kind") != "calibration":
        raise UsageError(f'{where} is not a calibration: expected an object with "kind": "calibration"')
    if document.get("schema") != SCHEMA:
        raise UsageError(f"{where} has schema {document.get('schema')!r}, this version reads {SCHEMA}: calibrate again")
    for name, entry in checked(document, _Calibration, where).constants.items():
        _check_constant(name, entry, where)
    return document


def _check_constant(name: str, entry: Any, where: str) -> None:
    if name not in CONSTANTS:
        raise unknown(f"constant in {where}", name, CONSTANTS)
    unit, _ = CONSTANTS[name]
    zero = unit == "s" or name.endswith((".overlap", ".prologue", ".tail", ".flop_per_clock", ".warp_rows"))
    constant = checked(entry, _MayBeZero if zero else _Constant, f"{where}, {name}")
    if constant.unit not in (None, unit):
        raise UsageError(f"{where}: {name} is in {constant.unit!r}, expected {unit!r}")
    points = constant.value if isinstance(constant.value, list) else [(0.0, constant.value)]
    if isinstance(constant.value, list):
        if any(first >= second for (first, _), (second, _) in pairwise(constant.value)):
            raise UsageError(f"{where}: the sizes of {name} must rise from point to point")
    elif name.endswith(".overlap") and constant.value > 1:
        raise UsageError(f"{where}: {name} is {constant.value}, expected a share from 0 to 1")
    for _, value in points:
        _check_range(name, value, unit, where)


def _check_range(name: str, value: float, unit: str, where: str) -> None:
    """Raises UsageError for a value that no device has: a slip of units, most often."""
    least, most = range_of(unit)
    if not least <= value <= most:
        raise UsageError(f"{where}: {name} is {value:g} {unit}, expected {least:g} to {most:g}: is it in other units?")


def range_of(unit: str) -> tuple[float, float]:
    """The least and the most that a constant of a unit can be."""
    return _MOST[unit] * _LEAST_SHARE if unit in _RATES else 0.0, _MOST[unit]

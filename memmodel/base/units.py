"""Numbers and formulas as text, and the one place that knows 1000 and 1024: memory is binary, rates are decimal."""

import math
import re

from memmodel.base.errors import UsageError, shortened

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
GIGA, TERA = 10**9, 10**12
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20}
_BYTES = {"": 1, "B": 1, "KIB": KiB, "MIB": MiB, "GIB": GiB, "TIB": 1 << 40}
_BYTES |= {"KB": 10**3, "MB": 10**6, "GB": GIGA, "TB": TERA}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_DECIMAL = ("", "K", "M", "G", "T", "P", "E", "Z")


def finite(text: str) -> float:
    """The finite number that a text writes in ASCII digits.

    Raises ValueError for others: float() reads 1_0, nan, inf and the digits of every script.
    """
    number = float(text) if text.isascii() and "_" not in text else math.inf
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def whole(text: str) -> int:
    """The whole number in ASCII digits that a text writes. Raises ValueError: int() reads digits of every script."""
    if any(digit > "_" for digit in text):
        raise ValueError(text)
    return int(text)


def parse_number(text: str, name: str = "number", example: str = "0.1") -> float:
    """A number from text: 0.1 or 1e-3. Raises UsageError that names `name` and an `example`."""
    try:
        return finite(text)
    except ValueError:
        raise UsageError(f"{name} {shortened(text)}: expected a number such as {example}") from None


def parse_size(text: str, name: str = "size") -> int:
    """A size from text: 4096, 4_096, 16k (= 16384) or 1M (= 1048576). Raises UsageError that names `name`."""
    given = text.strip().casefold()
    digits = given.removesuffix(given[-1:]) if given[-1:] in ("k", "m") else given
    try:
        return whole(digits) * _FACTORS[given[len(digits) :]]
    except ValueError:
        shown = text if text.strip() and len(text) <= 80 else shortened(text)
        raise UsageError(f"{name} {shown}: expected a whole number such as 4096 or 16k") from None


def parse_bytes(text: str, name: str) -> int:
    """Bytes from text: 40GiB (= 40 x 2**30), 40GB (= 40 x 10**9) or a plain number. Raises UsageError."""
    given = text.replace(" ", "").upper()
    digits = given.rstrip("BIKMGT")
    try:
        size = finite(digits) * _BYTES[given[len(digits) :]]
    except (KeyError, ValueError):
        size = -1.0
    if not 0 < size <= 1 << 50:
        raise UsageError(f"{name} {text}: expected memory such as 40GiB or 23.7GiB")
    return int(size)


def parse_seconds(text: str, name: str) -> float:
    """Seconds from text: 8us, 0.5ms or 1s. Raises UsageError."""
    given = text.replace(" ", "").casefold()
    digits = given.rstrip("nmus")
    try:
        seconds = finite(digits) * _SECONDS[given[len(digits) :]]
    except (KeyError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= 1:
        raise UsageError(f"{name} {text}: expected a time such as 8us or 0.5ms")
    return seconds


def bytes_text(count: float) -> str:
    """A size in binary units with three significant digits or two decimals: "1.25 GiB", "512 B"."""
    value, unit = float(count), 0
    while abs(value) >= 1024 and unit < len(_BINARY) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{value:,.2f} {_BINARY[unit]}"


def decimal_text(value: float, unit: str) -> str:
    """A rate or count in decimal units: "312 TFLOP/s", "2.04 TB"."""
    step = 0
    while abs(value) >= 999.5 and step < len(_DECIMAL) - 1:
        value, step = value / 1000, step + 1
    digits = 0 if value == int(value) and step == 0 else max(0, 2 - len(str(int(abs(value)))) + 1)
    return f"{value:,.{digits}f} {_DECIMAL[step]}{unit}"


def number_text(value: float) -> str:
    """Four significant digits, and never a power of ten for a large number: "0.25", "42.71", "12,260"."""
    rounded = float(f"{value:.4g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.4g}"


def seconds_text(seconds: float) -> str:
    """A duration: "152.6 ms", "49.8 us"."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            return f"{number_text(seconds * factor)} {unit}"
    raise AssertionError("unreachable")


def range_text(low: float, high: float) -> str:
    """Two durations in the unit of the longer: "44.9\N{EN DASH}56.2 ms"."""
    unit = seconds_text(high).partition(" ")[2]
    factor = 1 / _SECONDS[unit]
    return f"{_three(low * factor)}\N{EN DASH}{_three(high * factor)} {unit}"


def _three(value: float) -> str:
    """Three digits, but at most two decimals: "56.2", "0.50"."""
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def percent_text(part: float, whole: float) -> str:
    """A share: "42.0 %"."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def formula_text(expression: object) -> str:
    """A sympy expression as in a textbook: "4·b·h·n·(2·d + n)", with n², ≥ and ≤."""
    text = str(expression).replace("ceiling", "ceil")
    text = re.sub(r"\*\*(\d+)", lambda power: power.group(1).translate(_SUPERSCRIPTS), text)
    return text.replace("*", "·").replace(">=", "≥").replace("<=", "≤").replace("&", "and")

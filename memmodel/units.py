"""Numbers and formulas for people. Only here are 1000 and 1024 known: memory in binary units, rates in decimal ones."""

import re

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
GIGA, TERA = 10**9, 10**12
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_DECIMAL = ("", "K", "M", "G", "T", "P", "E", "Z")


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


def percent_text(part: float, whole: float) -> str:
    """A share: "42.0 %"."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def formula_text(expression: object) -> str:
    """A sympy expression as people write it: "4·b·h·n·(2·d + n)", with n², ≥ and ≤."""
    text = str(expression).replace("ceiling", "ceil")
    text = re.sub(r"\*\*(\d+)", lambda power: power.group(1).translate(_SUPERSCRIPTS), text)
    return text.replace("*", "·").replace(">=", "≥").replace("<=", "≤").replace("&", "and")

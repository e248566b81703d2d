"""The rows of a prediction's table, and of a trace's, in words."""

from collections.abc import Callable
from typing import Any

from memmodel.base.units import bytes_text, decimal_text, number_text, percent_text, range_text, seconds_text
from memmodel.prediction import Time

FITS = {None: "unknown", True: "yes", False: "NO"}
ROWS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("fits", lambda p: FITS[p.memory.fits]),
    ("live peak", lambda p: bytes_text(p.memory.live_peak_bytes)),
    ("allocated peak", lambda p: bytes_text(p.memory.allocated_peak_bytes)),
    ("reserved peak", lambda p: bytes_text(p.memory.reserved_peak_bytes)),
    ("nvidia-smi", lambda p: bytes_text(p.memory.device_bytes) + ("" if p.memory.context_bytes else " + context")),
    ("saved for backward", lambda p: bytes_text(p.memory.saved_bytes)),
    ("FLOP", lambda p: decimal_text(p.work.flops, "FLOP")),
    ("HBM traffic", lambda p: bytes_text(p.work.hbm_bytes)),
    ("intensity", lambda p: f"{number_text(float(p.work.intensity))} FLOP/B"),
    ("time, at least", lambda p: seconds_text(p.time.seconds) if p.time else "-"),
    ("time, expected", lambda p: seconds_text(p.calibrated.seconds) if p.calibrated else ""),
    ("90 % of runs", lambda p: interval_text(p.calibrated)),
    ("limited by", lambda p: _binding(p)),
)


def interval_text(time: Time | None) -> str:
    """The interval of an expected time; empty without one."""
    if time is None or time.low is None or time.high is None:
        return ""
    return f"{seconds_text(time.low)} to {seconds_text(time.high)}"


def range_of(time: Time | None) -> str:
    """That interval in a narrow column."""
    return "" if time is None or time.low is None or time.high is None else range_text(time.low, time.high)


def _binding(result: Any) -> str:
    time = result.time
    return f"{time.binding} ({percent_text(time.shares[time.binding], time.seconds)})" if time and time.shares else "-"

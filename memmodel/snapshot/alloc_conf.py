"""The settings string of `PYTORCH_ALLOC_CONF`: "key:value,key:value", as PyTorch reads it.

Source: c10/core/AllocatorConfig.cpp and c10/cuda/CUDAAllocatorConfig.cpp of torch 2.13. A test holds this reading to
torch's own parser.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.blocks import LARGE_SEGMENT
from memmodel.allocator.config import INTERVALS
from memmodel.base.errors import UsageError, unknown
from memmodel.base.units import MiB

_HINT = "as in expandable_segments:True,max_split_size_mb:128"
_FLAGS = (  # these and the next settings change no memory of the device
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "throw_on_cudamalloc_oom",
)
_COUNTS = {  # setting -> the values that it takes
    "pinned_max_cached_size_mb": range(1 << 64),
    "pinned_max_round_threshold_mb": range(1 << 64),
    "pinned_num_register_threads": [1 << power for power in range(8)],
    "pinned_reserve_segment_size_mb": range(1, 1 << 64),
}
_NOT_MODELLED = {
    "garbage_collection_threshold": "it acts only below a limit set with set_per_process_memory_fraction",
    "per_process_memory_fraction": "--capacity sets such a limit",
}
_SIZES = ("large_segment_size_mb", "max_split_size_mb", "max_non_split_rounding_mb")
_DIVISIONS = "roundup_power2_divisions"
KEYS = ("backend", "expandable_segments", _DIVISIONS, *_SIZES, *_NOT_MODELLED, *_FLAGS, *_COUNTS)
_WHOLE = re.compile(r"[+-]?[0-9]+")  # like C++'s stoi, which reads leading digits and ignores the rest
_FRACTION = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_ENDLESS = 1 << 62  # no limit: PyTorch's default, and negative numbers wrapped to 64 bits, lie above it


@dataclass(frozen=True, slots=True)
class AllocConf:
    """The modelled settings of a string, and notes on those that are not modelled.

    With `collects_garbage`, cached segments may return to the driver while it still has memory.
    """

    config: AllocatorConfig
    notes: tuple[str, ...] = ()
    collects_garbage: bool = False


def parse_alloc_conf(text: str, torch: tuple[int, int] = (2, 13)) -> AllocConf:
    """Settings from a string, as that version of torch reads it; of a key given twice the last counts.

    Raises UsageError with the nearest key or the bound that is exceeded.
    """
    pairs = [_pair(item) for item in _items("".join(text.split()))]
    given = dict(pairs)
    for key in given:
        if key not in KEYS:
            raise unknown("allocator setting", key[:40], KEYS, hint=_HINT)
    if given.get("backend", "native") != "native":
        raise UsageError(
            f"backend:{given['backend'][:40]} does not cache as the model does: only backend:native is modelled"
        )
    steps = (0,) * INTERVALS
    for key, value in pairs:
        if key == _DIVISIONS:
            steps = _divisions(value, steps, overlaps=torch < (2, 9))
    config = AllocatorConfig(_flag(given, "expandable_segments"), roundup_power2_divisions=steps, **_sizes(given))
    return AllocConf(config, tuple(_not_modelled(given)), "garbage_collection_threshold" in given)


def _items(text: str) -> list[str]:
    """The settings between the commas outside brackets."""
    if text.count("[") != text.count("]"):
        raise UsageError(f"{text[:80]!r}: expected a closing bracket, as in roundup_power2_divisions:[256:1,>:4]")
    return _filled(re.split(r",(?![^\[]*\])", text), text)


def _filled(items: list[str], text: str) -> list[str]:
    """Items of a list, of which the last may be empty."""
    filled = items if items[-1] else items[:-1]
    if not all(filled):
        raise UsageError(f"{text[:80]!r}: expected something between two commas, {_HINT}")
    return filled


def _pair(item: str) -> tuple[str, str]:
    key, colon, value = item.partition(":")
    if not colon or not value or (":" in value and not value.startswith("[")):
        raise UsageError(f"allocator setting {item[:80]!r}: expected key:value, {_HINT}")
    return key, value


def _flag(given: Mapping[str, str], key: str) -> bool:
    value = given.get(key, "False")
    if value not in ("True", "False"):
        raise UsageError(f"{key}:{value[:40]}: expected True or False")
    return value == "True"


def _whole(key: str, value: str) -> int:
    """A whole number in C++'s unsigned 64 bits, where negative ones wrap around."""
    found = _WHOLE.match(value)
    number = int(found[0]) if found and len(found[0]) < 24 else 1 << 64
    if abs(number) >= 1 << 64:
        raise UsageError(f"{key}:{value[:40]}: expected a whole number")
    return number % (1 << 64)


def _sizes(given: Mapping[str, str]) -> dict[str, Any]:
    """Sizes in bytes from the settings in MiB; both limits of splitting are at least a large segment."""
    values = {key: _whole(key, given[key]) * MiB for key in _SIZES if key in given}
    large = values.get("large_segment_size_mb", LARGE_SEGMENT)
    if large <= 10 * MiB:
        raise UsageError(f"large_segment_size_mb:{large // MiB}: expected more than 10")
    for key in ("max_split_size_mb", "max_non_split_rounding_mb"):
        if values.get(key, large) < large:
            raise UsageError(
                f"{key}:{values[key] // MiB}: expected at least {large // MiB}, the size of large segments"
            )
    limit = values.get("max_split_size_mb", _ENDLESS)
    return {
        "large_segment": large,
        "max_split_size": limit if limit < _ENDLESS else None,
        "max_non_split_rounding": values.get("max_non_split_rounding_mb"),
    }


def _not_modelled(given: Mapping[str, str]) -> Iterator[str]:
    """A note for each setting that is not modelled. Raises UsageError for values out of PyTorch's bounds."""
    for key in given.keys() & set(_FLAGS):
        _flag(given, key)
    for key in given.keys() & _COUNTS.keys():
        if _whole(key, given[key]) not in _COUNTS[key]:
            expected = "a power of two up to 128" if "threads" in key else "a whole number above 0"
            raise UsageError(f"{key}:{given[key][:40]}: expected {expected}")
    for key, why in _NOT_MODELLED.items():
        if key not in given:
            continue
        found = _FRACTION.match(given[key])
        share = float(found[0]) if found else -1.0
        within = 0 <= share <= 1 if key == "per_process_memory_fraction" else 0 < share < 1
        if not within:
            raise UsageError(f"{key}:{given[key][:40]}: expected a number between 0 and 1")
        yield f"{key} is not modelled: {why}"


def _divisions(value: str, steps: tuple[int, ...], overlaps: bool) -> tuple[int, ...]:
    """Divisions of each interval from "4", or from "[256:1,512:2,>:4]" with intervals in MiB.

    An entry sets its own interval, the first also those below it; ">" sets all above the entry before it. With
    `overlaps`, as in torch before 2.9, ">" also sets that entry's own interval.
    """
    if not value.startswith("["):
        return (_power(value),) * INTERVALS
    found, last, first = list(steps), 0, True
    for item in _filled(value.strip("[]").split(","), value):
        start, colon, count = item.partition(":")
        if not colon or ":" in count:
            raise UsageError(f"{_DIVISIONS}:{value[:40]}: expected entries such as 256:4")
        divisions = 0 if _whole(_DIVISIONS, count) == 0 else _power(count)
        if start == ">":
            above = last if overlaps else last + 1
            found[above:] = [divisions] * (INTERVALS - above)
            continue
        last = min(_power(start).bit_length() - 1, INTERVALS - 1)
        if first:
            found[:last] = [divisions] * last
        found[last], first = divisions, False
    return tuple(found)


def _power(value: str) -> int:
    number = _whole(_DIVISIONS, value)
    if number.bit_count() != 1:
        raise UsageError(f"{_DIVISIONS}:{value[:40]}: expected powers of two, such as 4")
    return number

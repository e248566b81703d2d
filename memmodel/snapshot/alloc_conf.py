"""The settings string of `PYTORCH_ALLOC_CONF`: "key:value,key:value", as PyTorch reads it.

Source: c10/core/AllocatorConfig.cpp and c10/cuda/CUDAAllocatorConfig.cpp of torch 2.13, whose bounds are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.blocks import LARGE_SEGMENT
from memmodel.errors import UsageError, unknown
from memmodel.units import MiB

INTERVALS = 16  # of roundup_power2_divisions: from 1 MiB, each twice the one before, the last without an end
_HINT = "as in expandable_segments:True,max_split_size_mb:128"
_NO_DEVICE_MEMORY = (
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "throw_on_cudamalloc_oom",
)
_NOT_MODELLED = {
    "garbage_collection_threshold": "it acts only below a limit set with set_per_process_memory_fraction",
    "per_process_memory_fraction": "--capacity sets such a limit",
}
_SIZES = ("large_segment_size_mb", "max_split_size_mb", "max_non_split_rounding_mb")
KEYS = ("backend", "expandable_segments", "roundup_power2_divisions", *_SIZES, *_NOT_MODELLED, *_NO_DEVICE_MEMORY)


@dataclass(frozen=True, slots=True)
class IntervalConfig(AllocatorConfig):
    """Settings whose `roundup_power2_divisions` differ by the size of the request: one number for each interval."""

    intervals: tuple[int, ...] = ()

    def block_size(self, requested: int) -> int:
        """The block a request needs, in bytes."""
        index = max(0, (requested >> 20).bit_length() - 1)
        return _uniform(self.intervals[min(index, INTERVALS - 1)]).block_size(requested)


@lru_cache
def _uniform(divisions: int) -> AllocatorConfig:
    return AllocatorConfig(roundup_power2_divisions=divisions)


@dataclass(frozen=True, slots=True)
class AllocConf:
    """What a settings string means to the model, and what of it the model leaves out."""

    config: AllocatorConfig
    notes: tuple[str, ...] = ()


def parse_alloc_conf(text: str) -> AllocConf:
    """Settings from a string; of a key given twice the last counts. Raises UsageError with the nearest key or bound."""
    given = dict(_pair(item) for item in _items("".join(text.split(" "))))
    for key in given:
        if key not in KEYS:
            raise unknown("allocator setting", key, KEYS, hint=_HINT)
    if given.get("backend", "native") != "native":
        raise UsageError(
            f"backend:{given['backend']} does not cache as the model does: only backend:native is modelled"
        )
    config = AllocatorConfig(
        expandable_segments=_flag(given, "expandable_segments"),
        **_sizes(given),
    )
    notes = tuple(f"{key} is not modelled: {why}" for key, why in _NOT_MODELLED.items() if _fraction(given, key))
    divisions = given.get("roundup_power2_divisions")
    return AllocConf(config if divisions is None else with_divisions(config, _divisions(divisions)), notes)


def with_divisions(config: AllocatorConfig, intervals: tuple[int, ...]) -> AllocatorConfig:
    """The same settings with these divisions by interval; 1 is no rounding, as 0 is."""
    steps = tuple(0 if step == 1 else step for step in intervals)
    if len(set(steps)) == 1:
        return replace(config, roundup_power2_divisions=steps[0])
    return IntervalConfig(
        expandable_segments=config.expandable_segments,
        max_split_size=config.max_split_size,
        max_non_split_rounding=config.max_non_split_rounding,
        large_segment=config.large_segment,
        intervals=steps,
    )


def _items(text: str) -> list[str]:
    """The settings between the commas outside brackets."""
    items, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            items.append(text[start:index])
            start = index + 1
    if depth:
        raise UsageError(f"{text!r}: expected a closing bracket, as in roundup_power2_divisions:[256:1,>:4]")
    return [item for item in (*items, text[start:]) if item]


def _pair(item: str) -> tuple[str, str]:
    key, colon, value = item.partition(":")
    if not colon or not value:
        raise UsageError(f"allocator setting {item!r}: expected key:value, {_HINT}")
    return key, value


def _flag(given: Mapping[str, str], key: str) -> bool:
    value = given.get(key, "False")
    if value not in ("True", "False"):
        raise UsageError(f"{key}:{value}: expected True or False")
    return value == "True"


def _whole(key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        raise UsageError(f"{key}:{value}: expected a whole number")
    return int(value)


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
    fields = ("large_segment", "max_split_size", "max_non_split_rounding")
    return {field: values[key] for field, key in zip(fields, _SIZES, strict=True) if key in values}


def _fraction(given: Mapping[str, str], key: str) -> bool:
    """Whether a share of the device's memory is given, and that it is one."""
    if key not in given:
        return False
    try:
        share = float(given[key])
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UsageError(f"{key}:{given[key]}: expected a number between 0 and 1")
    return True


def _divisions(value: str) -> tuple[int, ...]:
    """Divisions of each interval from "4", or from "[256:1,512:2,>:4]" with intervals in MiB."""
    if not value.startswith("["):
        return (_power("roundup_power2_divisions", value),) * INTERVALS
    found, last = [0] * INTERVALS, 0
    for position, item in enumerate(part for part in value.strip("[]").split(",") if part):
        start, colon, steps = item.partition(":")
        if not colon:
            raise UsageError(f"roundup_power2_divisions:{value}: expected entries such as 256:4")
        count = 0 if steps == "0" else _power("roundup_power2_divisions", steps)
        if start == ">":
            found[last:] = [count] * (INTERVALS - last)
            continue
        index = min(_power("roundup_power2_divisions", start).bit_length() - 1, INTERVALS - 1)
        if position == 0:
            found[:index] = [count] * index
        found[index], last = count, index
    return tuple(found)


def _power(key: str, value: str) -> int:
    number = _whole(key, value)
    if number.bit_count() != 1:
        raise UsageError(f"{key}:{value}: expected powers of two, such as 4")
    return number

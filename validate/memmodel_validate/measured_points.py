"""Recorded runs as points of a roofline picture: work and seconds of each, beside the seconds predicted for it.

The points are computed from the evidence at release (`python -m memmodel_evidence.release`), with the shipped
calibration of each GPU.
"""

from dataclasses import dataclass
from functools import cache

import msgspec

from memmodel.attention.case import Case
from memmodel.pictures.roofline import MeasuredPoint
from memmodel_validate.validation_runs import DATA

POINTS = DATA / "measured_points.jsonl"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded time: its GPU, head dim, mask, bytes per element and source, and its point."""

    gpu_id: str
    head_dim: int
    mask: str
    itemsize: int
    source: str
    point: MeasuredPoint


@cache
def recorded() -> tuple[Recorded, ...]:
    """Every time on record with a known amount of work, on GPUs of the database."""
    return tuple(map(msgspec.json.Decoder(Recorded).decode, POINTS.read_bytes().splitlines()))


def measured_points(gpu_id: str, case: Case) -> tuple[list[MeasuredPoint], list[str]]:
    """The points of a GPU with the case's head dim, mask and bytes of dtype; and notes on where they are from."""
    here = [one for one in recorded() if one.gpu_id == gpu_id]
    key = (case.head_dim, case.mask.name, case.dtype.itemsize)
    alike = [one for one in here if (one.head_dim, one.mask, one.itemsize) == key]
    if alike:
        return [one.point for one in alike], [f"from {source}" for source in dict.fromkeys(o.source for o in alike)]
    return [], [f"of {len(here)} times on record on this GPU, none has this head dim, mask and dtype"]

"""placeholder until the kernels' table lands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Query rows by key columns."""

    rows: int
    cols: int

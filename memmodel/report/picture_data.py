"""Pictures as JSON, with the keys of docs/pictures.md: bytes, seconds, FLOP/s."""

from collections.abc import Sequence
from typing import Any

from memmodel.pictures.frontier import Frontier, HeatMap, Line
from memmodel.pictures.roofline import MeasuredPoint, Point, Roofline
from memmodel.pictures.timeline import Timeline
from memmodel.report.json import case_dict, memory_dict

SCHEMA = 1


def pictures_dict(pictures: Sequence[Any]) -> dict[str, Any]:
    """Pictures of one kind; a timeline has a panel for each algorithm."""
    if isinstance(pictures[0], Timeline):
        return {"schema": SCHEMA, "kind": "timeline", "panels": [timeline_dict(shown) for shown in pictures]}
    (shown,) = pictures
    if isinstance(shown, Roofline):
        return {"schema": SCHEMA, "kind": "roofline", **roofline_dict(shown)}
    if isinstance(shown, Frontier):
        return {"schema": SCHEMA, "kind": "frontier", **frontier_dict(shown)}
    return {"schema": SCHEMA, "kind": "heat map", **heat_map_dict(shown)}


def picture_dict(shown: Any) -> dict[str, Any]:
    """One picture."""
    return pictures_dict([shown])


def timeline_dict(shown: Timeline) -> dict[str, Any]:
    """One panel."""
    return {
        "gpu": shown.gpu,
        "algorithm": shown.configuration.algorithm if shown.configuration else None,
        "title": shown.title,
        "case": case_dict(shown.configuration) if shown.configuration else shown.case,
        "memory": memory_dict(shown.memory),
        "peak": shown.peak,
        "moments": [moment._asdict() for moment in shown.moments],
        "bands": [
            {"name": b.name, "kind": b.kind, "live_bytes": list(b.live_bytes), "saved_bytes": list(b.saved_bytes)}
            for b in shown.bands
        ],
    }


def roofline_dict(shown: Roofline) -> dict[str, Any]:
    """Ceilings and points."""
    return {
        "gpu": shown.gpu,
        "case": shown.case,
        "dtype": shown.dtype,
        "balance": shown.balance,
        "peak": shown.peak.name,
        "roofs": [roof._asdict() for roof in shown.roofs],
        "points": [_point(point) for point in shown.points],
        "without_arithmetic": list(shown.without),
        "measured": [_measured(one) for one in shown.measured],
        "notes": list(shown.notes),
    }


def _point(point: Point) -> dict[str, Any]:
    return {**point._asdict(), "rate": point.rate, "expected_rate": point.expected_rate}


def _measured(one: MeasuredPoint) -> dict[str, Any]:
    return {**one._asdict(), "rate": one.rate}


def frontier_dict(shown: Frontier) -> dict[str, Any]:
    """Lines with their walls."""
    lines = [_line(line) for line in shown.lines]
    return {"case": shown.case, "against": shown.against, "step": shown.step, "lines": lines}


def _line(line: Line) -> dict[str, Any]:
    return {**line._asdict(), "walls": [wall._asdict() for wall in line.walls]}


def heat_map_dict(shown: HeatMap) -> dict[str, Any]:
    """Cells by size and sequence, and the wall."""
    return {
        "case": shown.case,
        "against": shown.against,
        "gpu": shown.gpu,
        "capacity_bytes": shown.capacity_bytes,
        "cells": [cell._asdict() for cell in shown.cells],
        "line": _line(shown.line),
    }

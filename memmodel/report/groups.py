"""The live peak by group, and the bytes that the allocator adds to it."""

from collections.abc import Mapping

from memmodel.base.units import bytes_text
from memmodel.events.groups import GROUPS, WORKSPACE, by_kind, kind_of
from memmodel.prediction import Memory
from memmodel.report.sheet import Sheet


def group_table(memory: Memory, formulas: Mapping[str, str]) -> Sheet:
    """The live peak by group, each with its formula where there are any, and what the allocator adds to it."""
    kinds = by_kind(memory.groups)
    rows = [row for kind in GROUPS if kind in kinds and kind != WORKSPACE for row in _rows(kind, memory, formulas)]
    # Rows below the live peak are what the allocator adds to it, up to the reserved bytes.
    live, allocated, reserved = memory.live_peak_bytes, memory.allocated_peak_bytes, memory.reserved_peak_bytes
    rows.append(("live peak", bytes_text(live), ""))
    for name, nbytes in (
        ("workspace", memory.workspace_bytes),
        ("rounding to blocks", allocated - live - memory.workspace_bytes),
        ("fragmentation", reserved - allocated),
    ):
        rows += [(name, bytes_text(nbytes), "")] if nbytes > 0 else []
    rows.append(("reserved", bytes_text(reserved), ""))
    columns = ("|group", ">bytes", "in letters") if formulas else ("|group", ">bytes")
    return Sheet("What fills the peak", columns, [row[: len(columns)] for row in rows], total=True)


def _rows(kind: str, memory: Memory, formulas: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """A kind of group, and its details where there are several."""
    details = {group: size for group, size in memory.groups.items() if kind_of(group) == kind}
    total = bytes_text(sum(details.values()))
    if len(details) == 1:
        (group,) = details
        return [(group, total, formulas.get(group, ""))]
    shown = [(kind, total, "")]
    for group, size in details.items():
        name = group.removeprefix(kind).strip() or "other"
        shown.append((f"  {name}", bytes_text(size), formulas.get(group, "")))
    return shown

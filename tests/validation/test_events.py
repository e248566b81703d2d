"""Allocator events from each of the places they come from, against sequences counted by hand."""

from dataclasses import replace
from typing import Any

import pytest

from memmodel.allocator.cublas import workspace
from memmodel.attention.case import make_case
from memmodel.events.liveness import phase_peaks
from memmodel.recorder import record
from memmodel.recording import CPU
from memmodel_validate.events import (
    MemoryEvent,
    Numbering,
    Position,
    compared,
    entries,
    live_peaks,
    packed,
    program_events,
    trace_events,
    unpacked,
    with_unseen_frees,
)
from memmodel_validate.suite import trials

# Naive attention without gradients, 128 queries and keys, head dim 64, bf16. The product of q and k makes the scores,
# then the workspace of the thread's first product is taken; unscaled scores die once scaled, the others at the end.
INPUT, SCORES, WORKSPACE = 128 * 64 * 2, 128 * 128 * 2, 32 << 20
FIRST = [INPUT, INPUT, INPUT, "forward", SCORES, WORKSPACE, SCORES, -4, SCORES, INPUT, -6, -7, "after", -8]
SECOND = ["forward", SCORES, SCORES, -9, SCORES, INPUT, -10, -11, "after", -12]


def snapshot(steps: list[int | str]) -> tuple[dict[str, Any], list[Position]]:
    """What torch would write for such a sequence: addresses that are used again, segments, and requests to free."""
    trace: list[dict[str, Any]] = []
    positions: list[Position] = []
    for event in unpacked(steps):
        address = 0x7F0000000000 + event.storage * (64 << 20)
        entry = {"addr": address, "size": event.nbytes, "stream": 0, "time_us": len(trace)}
        if event.kind == "alloc":
            trace += [{**entry, "action": "segment_alloc", "size": 2 << 20}, {**entry, "action": "alloc"}]
        elif event.kind == "free":
            trace += [{**entry, "action": "free_requested"}, {**entry, "action": "free_completed"}]
        else:
            positions.append(Position(event.kind, len(trace)))
            trace.append({**entry, "action": "snapshot", "addr": 0, "size": 0})
    return {"device_traces": [trace, []], "segments": []}, positions


def case(**given: Any) -> Any:
    return make_case(seq=128, phase="inference", torch="2.13", **given)


def test_a_programs_events_with_workspaces_are_those_counted_by_hand() -> None:
    program = record(case())
    found = program_events(program, workspace("2.13", (9, 0)), steps=2)
    assert packed(found) == ["inputs", *FIRST, *SECOND]


def test_a_workspace_per_product_comes_and_goes_with_each() -> None:
    program = record(case())
    found = packed(program_events(program, workspace("2.15", (9, 0))))
    expected = [INPUT, INPUT, INPUT, "forward", SCORES, WORKSPACE, -5, SCORES, -4, SCORES, INPUT, WORKSPACE]
    assert found == ["inputs", *expected, -9, -6, -7, "after", -8]


def test_a_snapshot_of_the_same_run_is_equal_event_by_event() -> None:
    written, positions = snapshot([*FIRST, *SECOND])
    real = trace_events(entries(written), positions)
    assert packed(real) == [*FIRST, *SECOND]
    result = compared(real, program_events(record(case()), workspace("2.13", (9, 0)), steps=2))
    assert result.all_equal
    assert result.measured == 20
    assert live_peaks(real)["forward"] == 4 * INPUT + 2 * SCORES + WORKSPACE


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"head_dim": 72}, "event 1: alloc of 16384 B (16.00 KiB, storage 1), predicted alloc of 18432 B"),
        ({"algorithm": "naive-by-hand"}, "event 8: alloc of 32768 B (32.00 KiB, storage 7), predicted alloc of 256 B"),
    ],
)
def test_another_program_is_told_apart(wrong: dict[str, Any], told: str) -> None:
    real = trace_events(entries(snapshot(FIRST)[0]))
    algorithm = wrong.pop("algorithm", "naive")
    result = compared(real, program_events(record(case(algorithm=algorithm, **wrong)), workspace("2.13", (9, 0))))
    assert not result.all_equal
    assert result.first_difference.startswith(told)


def test_a_snapshot_of_another_device_has_no_events() -> None:
    assert trace_events(entries(snapshot(FIRST)[0], device=1)) == []
    assert trace_events(entries(snapshot(FIRST)[0], device=5)) == []


def test_deaths_of_what_was_born_before_are_passed_over() -> None:
    trace = [{"action": "free_completed", "addr": 1, "size": 8}, {"action": "alloc", "addr": 1, "size": 16}]
    assert trace_events(trace) == [MemoryEvent("alloc", 0, 16)]


def test_the_order_of_deaths_between_two_births_does_not_count_but_their_place_does() -> None:
    births: list[int | str] = [8, 8, 8]
    model = unpacked([*births, -1, -2, 16])
    assert compared(unpacked([*births, -2, -1, 16]), model).all_equal
    late = compared(unpacked([*births, -1, 16, -2]), model)
    assert (late.equal, late.all_equal) == (4, False)


def test_the_short_form_keeps_everything() -> None:
    for trial in trials("cpu"):
        events = program_events(record(replace(trial.case, algorithm="naive"), device=CPU))
        assert unpacked(packed(events)) == events


@pytest.mark.parametrize("items", [[-1], [8, -2], [0]])
def test_a_death_without_a_birth_is_no_sequence(items: list[int | str]) -> None:
    with pytest.raises(ValueError, match="no storage"):
        unpacked(items)


@pytest.mark.parametrize("trial", trials("cpu"), ids=lambda trial: trial.name)
def test_live_peaks_of_events_are_those_of_the_timeline(trial: Any) -> None:
    program = record(trial.case, device=CPU)
    peaks = phase_peaks(program)
    assert live_peaks(program_events(program)) == {k: v for k, v in peaks.items() if k != "peak"}


def test_a_free_that_no_profiler_saw_stands_where_the_model_has_it() -> None:
    """Storage 0 dies unseen before its address is given out again; a real free that is merely late stays late."""
    model = numbered("alloc a", "alloc b", "free a", "alloc c", "free b", "alloc d")
    unseen = numbered("alloc a", "alloc b", "alloc c", "free b", "alloc a")
    late = numbered("alloc a", "alloc b", "alloc c", "free a", "free b", "alloc d")
    never = numbered("alloc a", "alloc b", "alloc c", "free b", "alloc d")
    assert compared(seen(with_unseen_frees(unseen, model)), seen(model)).all_equal
    assert live_peaks(with_unseen_frees(unseen, model)) == live_peaks(model)
    for wrong in (late, never):
        assert not compared(seen(with_unseen_frees(wrong, model)), seen(model)).all_equal


def numbered(*events: str) -> list[MemoryEvent]:
    found = Numbering()
    for kind, name in map(str.split, events):
        if kind == "alloc":
            found.birth(ord(name), 8)
        else:
            found.death(ord(name))
    return found.events


def seen(events: list[MemoryEvent]) -> list[MemoryEvent]:
    return [event for event in events if event.kind in ("alloc", "free")]

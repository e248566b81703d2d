"""The timeline, the account at the peak and fragmentation of a run whose blocks and segments are counted by hand."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_data import KiB, MiB, Recording, frame, segment

from memmodel.report.snapshot import owners_table
from memmodel.snapshot.fragmentation import Fragmentation
from memmodel.snapshot.history import history, recorded_blocks
from memmodel.snapshot.owners import BEFORE, NO_FRAMES, NO_STACK, CodeLine, Stack, calls, place
from memmodel.snapshot.snapshot import parse_snapshot
from memmodel.snapshot.study import Study, study

UNWIND = frame("??", 0, "torch::unwind::unwind()")
LINEAR = frame("/env/lib/python3.12/site-packages/torch/nn/modules/linear.py", 125, "forward")
USER = frame("/home/me/site/model.py", 31, "forward")
CALLER = frame("/home/me/site/train.py", 7, "<module>")


def studied(run: Recording, since: int = 0) -> Study:
    return study(parse_snapshot(run.data(since), "x.pickle"))


def test_timeline_by_hand() -> None:
    """3 and 5 MiB share a segment of 20 MiB; 14 MiB has its own; 512 KiB is in a small one of 2 MiB."""
    run = Recording()
    first = run.malloc(3 * MiB)
    run.malloc(5 * MiB)
    run.free(first)
    run.malloc(14 * MiB)
    run.malloc(512 * KiB)
    course = studied(run).history
    in_mib = [(a / MiB, r / MiB) for a, r in zip(course.allocated, course.reserved, strict=True)]
    assert in_mib == [
        (0, 0),
        (0, 20),  # segment_alloc
        (3, 20),
        (8, 20),
        (8, 20),  # free_requested
        (5, 20),
        (5, 34),
        (19, 34),
        (19, 36),
        (19.5, 36),
    ]
    assert course.peak == 9


def test_the_account_of_the_peak_by_hand() -> None:
    run = Recording()
    run.malloc(2 * MiB)
    since = len(run.events)
    run.malloc(6 * MiB, frames=[UNWIND, LINEAR, USER, CALLER])
    run.malloc(7 * MiB, frames=[LINEAR, USER, CALLER])
    run.malloc(MiB, frames=[CALLER])
    dead = run.malloc(600, frames=[UNWIND, frame("", 0, "torch::autograd::generated::MmBackward0::apply(int)")])
    run.free(dead)
    run.malloc(100, frames=[USER])
    found = studied(run, since).owners
    assert [(entry.where, entry.nbytes, entry.blocks) for entry in found] == [
        (CodeLine("/home/me/site/model.py", 31, "forward"), 13 * MiB, 2),
        (CodeLine("", 0, BEFORE), 2 * MiB, 1),
        (CodeLine("/home/me/site/train.py", 7, "<module>"), MiB, 1),
        (CodeLine("", 0, f"{NO_FRAMES} (MmBackward0)"), KiB, 1),  # 600 bytes are two blocks of 512: the first peak
    ]


def test_a_block_from_before_the_recording_keeps_the_stack_that_the_end_still_knows() -> None:
    run = Recording()
    run.malloc(2 * MiB, frames=[USER])
    lost = run.malloc(3 * MiB, frames=[USER])
    since = len(run.events)
    run.malloc(4 * MiB, frames=[CALLER])
    run.free(lost)
    found = {entry.where.function: entry.nbytes for entry in studied(run, since).owners}
    assert found == {"forward": 2 * MiB, BEFORE: 3 * MiB, "<module>": 4 * MiB}


def test_which_frame_is_the_users() -> None:
    known = frame("/env/lib/python3.12/site-packages/transformers/models/llama.py", 3, "forward")
    python = frame("/usr/lib/python3.12/runpy.py", 88, "_run_code")

    def code_line(frames: Any) -> CodeLine:
        return place(calls(Stack(frames, NO_STACK), {}))[0]

    assert code_line([UNWIND, LINEAR, known, USER, python]) == CodeLine(USER["filename"], 31, "forward")
    assert code_line([known, python]) == CodeLine(known["filename"], 3, "forward")  # no code of the user's
    assert code_line([frame(r"C:\env\Lib\site-packages\torch\nn\functional.py", 1, "linear"), USER]).line == 31
    assert code_line([frame("<eval_with_key>.5", 4, "forward"), frame("<stdin>", 1, "<module>")]).filename == "<stdin>"
    assert code_line([frame("/home/me/torch/model.py", 2, "f")]).line == 2  # a folder called torch is not the library
    assert code_line([UNWIND, LINEAR]).function == NO_FRAMES
    for nothing in (None, [], "frames", [1, None, {"filename": 3}]):
        assert code_line(nothing).function == NO_STACK


def test_the_library_is_beside_the_users_line_that_calls_it() -> None:
    """The user's line calls two lines of a library; the stack is that of the largest block."""
    first, second = (frame("/env/lib/python3.12/site-packages/einops/einops.py", line, "reduce") for line in (3, 9))
    run = Recording()
    run.malloc(2 * MiB, frames=[LINEAR, first, USER, CALLER])
    run.malloc(3 * MiB, frames=[LINEAR, second, USER, CALLER])
    run.malloc(4 * MiB, frames=[LINEAR, second, USER, CALLER])
    found = studied(run)
    shown = [(entry.where.line, entry.library and entry.library.line, entry.nbytes) for entry in found.owners]
    assert shown == [(31, 9, 7 * MiB), (31, 3, 2 * MiB)]
    assert [line.line for line in found.owners[0].stack] == [9, 31, 7]
    beside, stacks = (owners_table(found, stack) for stack in (False, True))
    assert beside.rows[0][3:] == ("site/model.py:31 forward", "einops/einops.py:9 reduce")
    assert stacks.rows[0][3] == "einops/einops.py:9 reduce < site/model.py:31 forward < site/train.py:7 <module>"


def test_fragmentation_by_hand() -> None:
    run = Recording()
    keep = run.malloc(9 * MiB)  # of 20 MiB: 11 MiB are left
    run.free(run.malloc(12 * MiB))  # a whole segment, free
    run.malloc(512)  # of 2 MiB
    assert keep
    large, small, together = studied(run).pools
    assert large == Fragmentation("large", 2, 32 * MiB, 23 * MiB, 12 * MiB, 11 * MiB)
    assert small == Fragmentation("small", 1, 2 * MiB, 2 * MiB - 512, 2 * MiB - 512, 2 * MiB - 512)
    assert together == Fragmentation("all", 3, 34 * MiB, 25 * MiB - 512, 12 * MiB, 13 * MiB - 512)
    assert studied(run).runs[1].end == together


def test_a_private_pool_has_its_own_line() -> None:
    run = Recording()
    run.malloc(512)
    data = run.data()
    block = {"size": 2 * MiB, "state": "inactive"}
    data["segments"].append(segment(1 << 50, True, [block]) | {"segment_pool_id": (1, 0)})
    found = study(parse_snapshot(data, "x.pickle"))
    assert [pool.pool for pool in found.pools] == ["small", "small of private pool 1,0", "all"]
    assert any("private pools" in note for note in found.notes)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 30 * MiB), min_size=2, max_size=30), data=st.data())
def test_the_account_adds_up_to_the_peak_and_the_timeline_ends_at_the_segments(
    sizes: list[int], data: st.DataObject
) -> None:
    run = Recording()
    cut = data.draw(st.integers(0, len(sizes) - 1))
    since = 0
    for index, size in enumerate(sizes):
        if index == cut:
            since = len(run.events)
        run.malloc(size, frames=[frame("/a.py", size % 3, "f")])
        if run.live and data.draw(st.booleans()):
            run.free(data.draw(st.sampled_from(sorted(run.live))))
    found = studied(run, since)
    assert sum(entry.nbytes for entry in found.owners) == max(found.history.allocated)
    assert found.history.allocated[-1] == run.allocator.allocated
    assert found.history.reserved[-1] == run.allocator.reserved
    assert all(a <= r for a, r in zip(found.history.allocated, found.history.reserved, strict=True))
    pools = found.pools[-1]
    assert pools.reserved_bytes - pools.free_bytes == run.allocator.allocated


def test_a_rest_that_stays_inside_a_freed_block_is_known_from_the_replay() -> None:
    """11.5 MiB get a segment of 12 MiB; the rest of 0.5 MiB is too small to split off and counts as allocated."""
    run = Recording()
    run.free(run.malloc(11 * MiB + 512 * KiB))
    snapshot = parse_snapshot(run.data(), "x.pickle")
    assert max(history(snapshot, recorded_blocks(snapshot)).allocated) == 11 * MiB + 512 * KiB
    assert max(studied(run).history.allocated) == 12 * MiB

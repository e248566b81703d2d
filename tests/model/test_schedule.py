"""Schedules of pipeline stages: the published bubble, and how many micro-batches a stage holds."""

import pytest

from memmodel.models.layout import Layout
from memmodel.models.schedule import Cost, makespan, order


def laid_out(schedule, stages, chunks):
    return Layout(pp=stages, schedule=schedule, virtual_stages=chunks)


@pytest.mark.parametrize(
    ("schedule", "stages", "chunks", "micro_batches"),
    [("gpipe", 4, 1, 8), ("1f1b", 4, 1, 8), ("1f1b", 8, 1, 8), ("interleaved", 4, 2, 8), ("interleaved", 4, 4, 16)],
)
def test_the_bubble_is_stages_less_one_over_micro_batches_and_chunks(schedule, stages, chunks, micro_batches):
    # Narayanan et al. (2021), section 2.2: (p - 1) / (m v) of the ideal time, where all stages take the same
    costs = [[Cost(1 / chunks, 2 / chunks)] * chunks] * stages
    seconds = makespan(laid_out(schedule, stages, chunks), costs, micro_batches)
    assert seconds / (3 * micro_batches) - 1 == pytest.approx((stages - 1) / (micro_batches * chunks))


def test_the_slowest_stage_sets_the_pace():
    costs = [[Cost(1, 2)], [Cost(2, 4)]]  # the second works without a pause from the first forward on
    assert makespan(laid_out("1f1b", 2, 1), costs, 8) == 1 + 8 * 6 + 2


def test_sending_delays_each_stage_once_each_way():
    costs = [[Cost(1, 2)]] * 4
    layout = laid_out("gpipe", 4, 1)
    assert makespan(layout, costs, 4, 0.5) == makespan(layout, costs, 4) + 6 * 0.5


@pytest.mark.parametrize(
    ("schedule", "chunks", "held"),
    [
        ("gpipe", 1, [8, 8, 8, 8]),  # all micro-batches
        ("1f1b", 1, [4, 3, 2, 1]),  # min(m, p - r)
        ("interleaved", 2, [11, 9, 7, 5]),  # (v - 1) p + 2 (p - 1 - r) ahead, and one
    ],
)
def test_forwards_that_wait_for_their_backward(schedule, chunks, held):
    layout, most = laid_out(schedule, 4, chunks), []
    for stage in range(4):
        waiting = [0]
        for action in order(layout, stage, 8):
            waiting.append(waiting[-1] + (1 if action.kind == "F" else -1))
        most.append(max(waiting))
    assert most == held


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
def test_every_micro_batch_runs_through_every_chunk_once_each_way(schedule):
    layout = laid_out(schedule, 4, 2 if schedule == "interleaved" else 1)
    for stage in range(4):
        actions = order(layout, stage, 8)
        assert len(set(actions)) == len(actions) == 2 * 8 * layout.virtual_stages
        for action in actions:
            if action.kind == "B":
                assert actions.index(action._replace(kind="F")) < actions.index(action)

"""The time of a step on many GPUs, of programs made by hand: kernels of known bytes, collectives of known times."""

from dataclasses import replace

import pytest

from memmodel.base.dtypes import bfloat16
from memmodel.events.program import COLLECTIVE, Launch, Mark, Program, Wait
from memmodel.events.work import Work
from memmodel.gpus import load_gpu
from memmodel.gpus.links import node_of
from memmodel.models.catalogue import listed
from memmodel.models.layout import Layout
from memmodel.models.setting import ModelCase
from memmodel.models.step_time import stages_of, step_time
from memmodel.timing import Machine
from memmodel.timing.collectives import collective_time

GPU = load_gpu("H100")
NODE = node_of(GPU)
SECOND = GPU.bandwidth  # bytes that a kernel reads in a second
MESSAGE = 10**9


def about(seconds):
    return pytest.approx(seconds, rel=1e-4)  # what L2 holds is read faster


def kernel(seconds, stream=0):
    return Launch("copy", Work(read=seconds * SECOND), bfloat16, stream=stream)


def gather(ranks, stream=0):
    return Launch("all_gather", Work(), bfloat16, COLLECTIVE, (MESSAGE,), ranks=ranks, stream=stream)


def laid_out(microbatches=1, **layout):
    return ModelCase(listed("llama-3-8b").architecture, layout=Layout(**layout), microbatches=microbatches)


def timed(case, forward, backward, optimizer=()):
    """The least time of a step whose phases hold these events, for every micro-batch."""

    def recorded(one):
        once = [Mark("forward"), *forward(one), Mark("backward"), *backward(one)]
        return Program([*once * one.microbatches, Mark("optimizer"), *optimizer], {}, {})

    return step_time(case, Machine(GPU), NODE, stages_of(case, recorded))


def test_collectives_on_the_stream_of_the_kernels_are_exposed():
    ranks = tuple(range(8))
    found = timed(laid_out(tp=8), lambda _: [kernel(1), gather(ranks)], lambda _: [kernel(2), gather(ranks)])
    each = collective_time("all_gather", 8, 1, MESSAGE, NODE).at_least
    assert found.computing == about(3)
    assert found.exposed == pytest.approx(2 * each)
    assert found.communicating == pytest.approx(2 * each)
    assert found.seconds == about(3 + 2 * each)
    assert [(one.kind, one.ranks, one.nodes, one.calls, one.nbytes) for one in found.collectives] == [
        ("all_gather", 8, 1, 2, 2 * MESSAGE)
    ]


def test_collectives_on_another_stream_are_hidden_where_kernels_are_longer():
    ranks = tuple(range(8))
    found = timed(laid_out(dp_shard=8), lambda _: [gather(ranks, 1), kernel(1), Wait(0, 1)], lambda _: [kernel(2)])
    assert found.overlapped == found.communicating > 0
    assert found.seconds == about(3)


def test_micro_batches_repeat_forward_and_backward_and_not_the_optimizer():
    case = laid_out(microbatches=5)
    assert timed(case, lambda _: [kernel(1)], lambda _: [kernel(2)], [kernel(4)]).seconds == about(5 * 3 + 4)


def test_stages_wait_for_each_other_and_sum_gradients_once():
    # two stages of 1 s and 2 s a micro-batch, four of them: (2 - 1) / 4 of 12 s is bubble; sums over replicas, which
    # have other batches, are due in the last backward alone
    case = laid_out(pp=2, dp=2, microbatches=4)
    shared = lambda one: one.layout.peers(one.rank, "replica")  # noqa: E731
    found = timed(case, lambda _: [kernel(1)], lambda one: [kernel(2), gather(shared(one))])
    assert found.bubble == pytest.approx(3, rel=1e-2)  # and the time to send
    assert found.communicating == pytest.approx(collective_time("all_gather", 2, 1, MESSAGE, NODE).at_least)
    assert found.seconds == pytest.approx(found.computing + found.exposed + found.bubble)


def test_sharded_gradients_are_reduced_after_every_backward():
    shared = lambda one: one.layout.peers(one.rank, "shard")  # noqa: E731
    phases = (lambda _: [kernel(1)], lambda one: [kernel(2), gather(shared(one))])
    sharded = timed(laid_out(pp=2, dp_shard=2, microbatches=4, zero=3), *phases)
    once = timed(laid_out(pp=2, dp_shard=2, microbatches=4, zero=1), *phases)
    assert sharded.communicating == pytest.approx(4 * once.communicating)


def test_more_machines_take_longer_to_gather():
    near, far = (laid_out(dp_shard=8), replace(laid_out(dp_shard=8), layout=Layout(dp_shard=8, tp=8)))
    shared = lambda one: one.layout.peers(one.rank, "shard")  # noqa: E731
    times = [timed(case, lambda one: [gather(shared(one))], lambda _: []) for case in (near, far)]
    assert times[0].collectives[0].nodes == 1
    assert times[1].collectives[0].nodes == 8
    assert times[1].seconds > 2 * times[0].seconds


def test_with_measured_rates_there_is_an_interval():
    from memmodel.timing.transfer import expected_rates

    def recorded(one):
        return Program([Mark("forward"), kernel(1), Mark("backward"), kernel(1)], {}, {})

    case = laid_out(tp=2)
    least = step_time(case, Machine(GPU), NODE, stages_of(case, recorded))
    found = step_time(case, Machine(GPU, expected_rates(GPU)), NODE, stages_of(case, recorded))
    assert (least.low, least.high) == (None, None)
    assert least.seconds <= found.low <= found.seconds <= found.high

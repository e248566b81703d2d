"""Kernels on streams: what runs side by side, and what waits."""

from memmodel.base.dtypes import bfloat16
from memmodel.events.program import COLLECTIVE, Launch, Wait
from memmodel.events.work import Work
from memmodel.timing.overlap import Streams

SECONDS = {"multiply": 3.0, "gather": 2.0, "long": 10.0}


def kernel(name, stream=0):
    return Launch(name, Work(), bfloat16, "gemm" if name == "multiply" else COLLECTIVE, stream=stream)


def found(*events):
    return Streams(events).overlapped(lambda launch: SECONDS[launch.name])


def test_what_is_on_one_stream_runs_one_after_the_other():
    times = found(kernel("gather"), kernel("multiply"), kernel("gather"))
    assert (times.seconds, times.computing, times.communicating, times.exposed) == (7.0, 3.0, 4.0, 4.0)


def test_another_stream_hides_what_is_shorter_than_the_computation():
    times = found(kernel("gather", 1), kernel("multiply"), Wait(0, 1), kernel("multiply"))
    assert (times.seconds, times.communicating, times.exposed) == (6.0, 2.0, 0.0)


def test_the_rest_of_a_longer_one_is_exposed():
    times = found(kernel("long", 1), kernel("multiply"), Wait(0, 1), kernel("multiply"))
    assert (times.seconds, times.exposed) == (13.0, 7.0)


def test_a_stream_waits_for_what_was_put_on_another_before_and_not_after():
    # the gather may start when the first product is over, and runs beside the second
    assert found(kernel("multiply"), Wait(1, 0), kernel("multiply"), kernel("gather", 1)).seconds == 6.0
    assert found(kernel("multiply"), kernel("multiply"), Wait(1, 0), kernel("gather", 1)).seconds == 8.0


def test_without_kernels_nothing_takes_time():
    assert found() == (0.0, 0.0, 0.0)

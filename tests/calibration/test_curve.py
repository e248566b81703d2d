"""Curves by size: equal to their points there, and never faster in total for more."""

from itertools import pairwise
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel.timing import Constant, Curve
from memmodel_validate.calibrate.samples import curve, faster, net, rate, rounds, seconds, spread, typical

sizes = st.lists(st.floats(1, 1e12), min_size=1, max_size=8, unique=True).map(sorted)


@st.composite
def rising(draw: st.DrawFn) -> Curve:
    """A curve whose times rise with size."""
    points, time = [], 0.0
    for size in draw(sizes):
        time += draw(st.floats(1e-6, 10.0))
        points.append((size, size / time))
    return Curve(points)


@given(rising())
def test_a_curve_is_its_points_at_its_points(found: Curve) -> None:
    for size, expected in found:
        assert found.rate(size) == pytest.approx(expected)


@given(rising(), st.floats(1, 1e13), st.floats(1, 1e13))
def test_time_never_falls_with_size(found: Curve, a: float, b: float) -> None:
    small, large = sorted((a, b))
    assert small / found.rate(small) <= large / found.rate(large) * (1 + 1e-9)


@given(st.dictionaries(st.floats(1, 1e12), st.lists(st.floats(1e-7, 1e3), min_size=1, max_size=9), min_size=1))
def test_measured_curves_have_times_that_rise_even_of_noise(points: dict[float, list[float]]) -> None:
    made = curve({size: (size, samples) for size, samples in points.items()}, "noise").value
    assert isinstance(made, Curve)
    times = [size / at for size, at in made]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(times))


def test_between_points_time_is_linear() -> None:
    found = Curve(((1.0, 1.0), (3.0, 1.5)))  # 1 s and 2 s
    assert 2.0 / found.rate(2.0) == pytest.approx(1.5)


def test_a_rate_is_by_the_fastest_third() -> None:
    samples = [2.0, 2.0, 9.0, 1.0, 1.0, 7.0, 4.0, 4.0, 4.0]
    assert rounds(samples) == [2.0, 1.0, 4.0]
    assert typical(samples) == 1.0
    assert rate(10.0, samples, "made up") == Constant(10.0, "made up", (4.0 - 1.0) / 2.0)
    assert seconds(samples, "made up").value == 1.0


def test_one_sample_has_no_spread() -> None:
    assert spread([3.0]) is None
    assert median([3.0]) == typical([3.0])


def test_overheads_are_taken_off_but_not_all() -> None:
    assert net([5.0, 1.0], 2.0) == [3.0, 0.25]


def test_the_better_of_two_measurements() -> None:
    slow, fast = Constant(1.0, "a", 0.1), Constant(2.0, "a", None)
    assert faster(slow, fast, "B/s") == Constant(2.0, "a", 0.1)
    assert faster(slow, fast, "s") == Constant(1.0, "a", 0.1)
    curves = [Constant(Curve(points), "a") for points in (((1.0, 5.0), (2.0, 3.0)), ((1.0, 4.0), (2.0, 6.0)))]
    assert faster(*curves, "B/s").value == Curve(((1.0, 5.0), (2.0, 6.0)))

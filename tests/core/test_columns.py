"""Polynomials in the columns of a sweep: the same numbers as numpy's, and no moment lost that can be the largest."""

import gc

import numpy as np

from memmodel.attention.case import make_case
from memmodel.sizes.columns import Polynomial, Table
from memmodel.sweeps import grid, sweep

A, B = np.array([2, 3, 7, 11]), np.array([5, 2, 64, 3])


def test_polynomials_have_the_values_of_arrays() -> None:
    table = Table(len(A))
    a, b = table.size(A), table.size(B)
    for sizes, arrays in (
        (3 * a * b - b + 4, 3 * A * B - B + 4),
        ((6 * a * b) // (2 * a), 3 * B),
        (-(-a * b // 4), -(-A * B // 4)),
        (np.maximum(a * a, b) % 3 + a, np.maximum(A * A, B) % 3 + A),
        (A * b + (a - A), A * B),
    ):
        assert np.array_equal(sizes.array, arrays)
    assert (a * b - b * a, 5 * a // 5) == (0, a)
    assert isinstance(a * b // 4, Polynomial)


def test_of_the_moments_those_are_left_that_can_be_the_largest() -> None:
    table = Table(len(A))
    a, b = table.size(A), table.size(B)
    highest = [a * b, a + b, 4 * a, 4 * b, 6]  # a and b are at least 2: a + b and 6 are never alone the largest
    assert {id(one) for one in table._undominated(highest)} == {id(one) for one in highest[:1] + highest[2:4]}
    (largest,) = table.evaluated([], highest)
    assert largest.tolist() == np.max([A * B, A + B, 4 * A, 4 * B, np.full(4, 6)], axis=0).tolist()


def test_no_cache_keeps_the_columns_of_a_sweep() -> None:
    case = make_case("flash")
    sweep(case, grid(case, {"seq": range(2, 99), "head_dim": [64, 128]}))
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Table)]

"""A mask's two counts, against counting one by one; and its tensor."""

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from memmodel.attention.masks import Mask, mask
from memmodel.base.errors import UsageError


def allowed(kind: Mask, n: int, m: int, i: int, j: int) -> bool:
    position = i + m - n
    if kind.causal and j > position:
        return False
    return kind.window is None or j > position - kind.window or j < kind.sinks


@st.composite
def cases(draw: st.DrawFn) -> tuple[Mask, int, int]:
    m = draw(st.integers(1, 60))
    n = draw(st.integers(1, m))
    window = draw(st.one_of(st.none(), st.integers(1, m)))
    sinks = 0 if window is None else draw(st.integers(0, m - window))
    return Mask(draw(st.booleans()) or window is not None, window, sinks), n, m


@given(cases())
def test_pairs_are_counted_exactly(case: tuple[Mask, int, int]) -> None:
    kind, n, m = case
    assert kind.pairs(n, m) == sum(allowed(kind, n, m, i, j) for i in range(n) for j in range(m))


@given(cases())
def test_keys_are_those_that_some_query_sees(case: tuple[Mask, int, int]) -> None:
    kind, n, m = case
    assert kind.keys(n, m) == sum(any(allowed(kind, n, m, i, j) for i in range(n)) for j in range(m))


@given(cases(), st.sampled_from([1, 2, 4, 16]), st.sampled_from([1, 3, 4, 8]))
def test_blocks_are_those_that_a_kernel_visits(case: tuple[Mask, int, int], rows: int, cols: int) -> None:
    """Row tile i loops over the sinks' key tiles, and from its first query's window to its last row's position."""
    kind, n, m = case
    visited = 0
    for start in range(0, n, rows):
        last = min(m, start + rows + m - n) if kind.causal else m
        first = max(0, start + m - n - kind.window + 1) if kind.window else 0
        visited += len({*range(first // cols * cols, last, cols), *range(0, min(kind.sinks, last), cols)})
    assert kind.blocks(n, m, rows, cols) == visited


@given(cases())
def test_arrays_count_like_ints(case: tuple[Mask, int, int]) -> None:
    kind, n, m = case
    sizes = np.array([n, n]), np.array([m, m])
    assert list(kind.pairs(*sizes)) == [kind.pairs(n, m)] * 2
    assert list(np.broadcast_to(kind.blocks(*sizes, 4, 8), 2)) == [kind.blocks(n, m, 4, 8)] * 2


@given(cases())
def test_the_tensor_blocks_what_does_not_count(case: tuple[Mask, int, int]) -> None:
    kind, n, m = case
    blocked = kind.blocked(torch, torch.empty(0), n, m)
    seen = kind.allowed(torch, torch.empty(0), n, m)
    kept = torch.ones(n, m, dtype=torch.bool) if blocked is None else ~blocked
    assert int(kept.sum()) == kind.pairs(n, m)
    assert seen is None or torch.equal(seen, kept)


@pytest.mark.parametrize(("rows", "cols"), [(128, 64), (64, 64), (64, 128)])
def test_the_closed_form_of_causal_blocks_holds_on_multiples_of_the_tile(rows: int, cols: int) -> None:
    n = sympy.Symbol("n", positive=True, integer=True)
    closed = Mask(causal=True).blocks(n, n, rows, cols)
    for size in (128, 1024, 8192):
        assert closed.subs(n, size) == Mask(causal=True).blocks(size, size, rows, cols)


def test_blocks_never_fall_below_pairs_in_area() -> None:
    for n in (100, 1000, 4096):
        assert Mask(causal=True).blocks(n, n, 128, 64) * 128 * 64 >= Mask(causal=True).pairs(n, n)


def test_wrong_masks_are_named() -> None:
    with pytest.raises(UsageError, match="unknown mask 'casual': did you mean causal"):
        mask("casual")
    with pytest.raises(UsageError, match="mask 'window' needs its size: add --window"):
        mask("window")
    with pytest.raises(UsageError, match="window 4097 with 4096 keys: give a window from 1 to 4096"):
        mask("window", 4097).check(4096, 4096)
    with pytest.raises(UsageError, match="4 sink keys without a window: every key is seen; add --window"):
        mask("causal", sinks=4).check(4096, 4096)
    with pytest.raises(UsageError, match="5 sink keys beside a window of 4092 of 4096 keys: give at most 4"):
        mask("window", 4092, 5).check(4096, 4096)

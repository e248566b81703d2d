"""The model's functions as JavaScript give what they give in Python; what cannot be JavaScript is named."""

import random
from typing import Any

import pytest

from memmodel.attention.masks import Mask
from memmodel.base import units
from memmodel.base.files import read_bytes
from memmodel.events.moments import _at
from memmodel.explorer.expressions import TranslationError
from memmodel.explorer.linker import linked
from memmodel.explorer.rules import NATIVE, RUN
from memmodel.pictures.picture import memory_axis

CALLS = "const model = (() => {%s})(); return arguments[0].map(([name, ...given]) => model[name](...given));"


def in_javascript(driver: Any, run: dict[str, Any], calls: list[list[Any]], natives: Any = None) -> list[Any]:
    """What calls, each a name and its arguments, return in a browser."""
    found: list[Any] = driver.execute_script(CALLS % linked(run, natives or {}), calls)
    return found


def test_numbers_in_words(chromium: Any) -> None:
    """Every unit, and halves, which go to the even digit in Python and away from zero in JavaScript."""
    rng = random.Random(5)
    values = (
        [10 ** rng.uniform(-7, 20) for _ in range(300)]
        + [1024**power * half for power in range(6) for half in (1, 1.125, 1.375, 2.5, 1023.995, 999.5, 1234.5)]
        + [0, 1, 999, 1000, 1023, 12345678]
    )
    run = {name: getattr(units, name) for name in ("bytes_text", "number_text", "seconds_text")}
    calls = [[name, value] for name in run for value in values]
    run |= {"decimal_text": units.decimal_text, "percent_text": units.percent_text}
    calls += [["decimal_text", value, "FLOP"] for value in values]
    calls += [["percent_text", value, 7.0] for value in values if value < 1e12]
    expected = [getattr(units, name)(*given) for name, *given in calls]
    assert in_javascript(chromium, run, calls) == expected


def test_blocks_of_masks(chromium: Any) -> None:
    """Recursion, floor division and remainders of negative numbers, keywords, methods."""
    rng = random.Random(6)
    natives = {
        "memmodel.sizes.dims.ceil_div": "((a, b) => Math.ceil(a / b))",
        "memmodel.sizes.dims.maximum": "Math.max",
        "memmodel.sizes.dims.minimum": "Math.min",
        "memmodel.sizes.dims.same": "equal",
    }
    calls = [
        [rng.choice((None, rng.randint(1, 300))), rng.randint(1, 300), *rng.choices((16, 48, 64, 128), k=2)]
        for _ in range(200)
    ]
    code = CALLS % linked({"Mask": Mask}, natives, {"blocks"})
    code = code.replace(
        "model[name](...given)", "new model.Mask(true, name).blocks(given[0], given[0] + 5, given[1], given[2])"
    )
    expected = [Mask(True, window).blocks(n, n + 5, rows, cols) for window, n, rows, cols in calls]
    assert chromium.execute_script(code, calls) == expected


def test_generators_and_defaults(chromium: Any) -> None:
    """`next` of a generator, a comprehension into a tuple, `min` and `max`, a format in a comprehension."""
    found = in_javascript(chromium, {"memory_axis": memory_axis}, [["memory_axis", top] for top in (1, 700, 3e6, 8e10)])
    for axis, top in zip(found, (1, 700, 3e6, 8e10), strict=True):
        assert [tuple(tick) for tick in axis["ticks"]] == list(memory_axis(top).ticks)


def test_every_rule_that_the_page_runs_can_be_javascript() -> None:
    assert "class $CachingAllocator" in linked(RUN, NATIVE)


def test_what_cannot_be_javascript_is_named() -> None:
    with pytest.raises(TranslationError, match=r"memmodel\.base\.files\.read_bytes: python\.js has no fspath"):
        linked({"read_bytes": read_bytes}, {})
    with pytest.raises(TranslationError, match=r"memmodel\.events\.moments\._at: line \d+: no JavaScript for With"):
        linked({"at": _at}, {})

"""What the bytes of a peak belong to."""

from memmodel.base.dtypes import float32
from memmodel.events.groups import GROUPS, by_kind, groups_at_peak
from memmodel.events.liveness import phase_peaks
from memmodel.events.program import Alloc, Event, Free, Mark, Program, Release, Save


def born(key: int, nbytes: int, role: str = "tensor") -> Alloc:
    return Alloc(key, nbytes, (nbytes // 4,), float32, "op", None, role)


# a weight, tokens, and the peak in backward: what was saved, a gradient on the way, scratch, the weight's gradient
WEIGHT, TOKENS, SAVED, LOGITS, PASSING, SCRATCH, GRADIENT, LATE = range(8)
EVENTS: list[Event] = [
    Mark("inputs"),
    born(WEIGHT, 400, "input"),
    born(TOKENS, 8, "input"),
    Mark("forward"),
    born(SAVED, 40),
    born(LOGITS, 20),
    Save(SAVED, "Mul"),
    Mark("backward"),
    born(PASSING, 44),
    born(SCRATCH, 4, "temporary"),
    born(GRADIENT, 404),
    Release(SAVED, "Mul"),
    *(Free(key) for key in (SAVED, LOGITS, PASSING, SCRATCH)),
    Mark("after"),
    born(LATE, 4),
    Free(LATE),
    Free(GRADIENT),
]
PROGRAM = Program(
    EVENTS,
    {WEIGHT: "weight", TOKENS: "tokens"},
    {GRADIENT: WEIGHT, PASSING: SAVED},
    {WEIGHT: "parameters", LOGITS: "logits"},
)


def test_every_byte_of_the_peak_has_a_group() -> None:
    found = groups_at_peak(PROGRAM)
    assert found == {
        "parameters": 400,
        "gradients": 404,
        "activations": 40,
        "activations inputs": 8,
        "logits": 20,
        "temporary": 44 + 4,  # a gradient that is on its way to the leaf, and scratch
    }
    assert sum(found.values()) == phase_peaks(PROGRAM)["peak"]
    assert list(by_kind(found)) == [kind for kind in GROUPS if kind in by_kind(found)]
    assert by_kind(found)["activations"] == 40 + 8


def test_a_gradient_of_logits_is_as_large_as_they_and_counts_with_them() -> None:
    assert groups_at_peak(PROGRAM._replace(gradients={PASSING: LOGITS, GRADIENT: WEIGHT}))["logits"] == 20 + 44

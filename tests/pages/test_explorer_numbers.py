"""What the page computes is what the Python model says: a thousand random states, in a real browser."""

import itertools
import json
import re
from typing import Any

import pytest
from explorer_cases import GPUS, numbers, random_states, resized_to, runs, state_of

from memmodel.allocator import CachingAllocator
from memmodel.allocator.cublas import workspace
from memmodel.attention.case import Case, make_case
from memmodel.attention.masks import mask as mask_named
from memmodel.base.search import last_true
from memmodel.cases import on_gpu
from memmodel.events.replay import replay
from memmodel.explorer.programs import EAGER, MASKS, OFFERED
from memmodel.gpus import Gpu, load_gpu
from memmodel.recorder import record
from memmodel.step import STEPS, room_bytes

COUNT = 1000
EVALUATED = """
return JSON.stringify(arguments[0].map((state) => {
  const {memory, work, time} = memmodel.evaluate(state).prediction;
  return {memory, flops: work.flops, hbm_bytes: work.hbm_bytes, seconds: time?.seconds, binding: time?.binding};
}));
"""


def differences(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """(expected, found) of what differs: whole numbers below 2^53 by one, larger ones and times by 1e-12 of them."""
    return {name: (value, found.get(name)) for name, value in expected.items() if not _agree(value, found.get(name))}


def _agree(expected: Any, found: Any) -> bool:
    exact = not isinstance(expected, float) and not (isinstance(expected, int) and expected >= 1 << 53)
    return bool(expected == found) if exact else abs(found / expected - 1) < 1e-12


def wrong(explorer: Any, cases: list[tuple[Case, Any]]) -> list[tuple[Any, dict[str, tuple[Any, Any]]]]:
    """The states whose numbers differ, with how."""
    states = [state_of(case, gpu) for case, gpu in cases]
    evaluated = json.loads(explorer.execute_script(EVALUATED, states))
    pairs = zip(states, cases, evaluated, strict=True)
    found = ((state, differences(numbers(case, gpu), page)) for state, (case, gpu), page in pairs)
    return [(state, unlike) for state, unlike in found if unlike]


def test_a_thousand_random_states(explorer: Any) -> None:
    cases = random_states(COUNT, seed=20)
    assert {case.algorithm for case, _ in cases} == set(OFFERED)
    assert {gpu.id for _, gpu in cases} == {gpu.id for gpu in GPUS}
    assert wrong(explorer, cases) == []


def test_every_pattern_of_ones(explorer: Any) -> None:
    """Sizes of one change which views need a copy: every combination, with every mask, in training."""
    gpu = load_gpu("A100")
    cases = [
        make_case(algorithm, batch=b, heads=r * g, kv_heads=g, seq=n, head_dim=d, mask=mask_named(mask, min(n, 2)))
        if mask == "window"
        else make_case(algorithm, batch=b, heads=r * g, kv_heads=g, seq=n, head_dim=d, mask=mask_named(mask))
        for algorithm in OFFERED
        for mask in MASKS
        for b, g, r, n, d in itertools.product((1, 5), (1, 3), (1, 2), (1, 7), (1, 4))
    ]
    assert len(cases) == len(OFFERED) * len(MASKS) * 2**5
    assert wrong(explorer, [(case, gpu) for case in on_gpu(cases, gpu)]) == []


def test_both_sides_of_the_wall(explorer: Any) -> None:
    """Near the wall the cache is released to make room: the figures are then those of a run with the GPU's memory."""
    cases, released = [], 0
    for case, gpu in random_states(60, seed=6):
        wall = last_true(lambda seq: runs(resized_to(case, seq=seq), gpu), 1 << 22)  # noqa: B023 - called at once
        if not 0 < wall < 1 << 22:
            continue
        for seq in (wall, wall + 1):
            sized = resized_to(case, seq=seq)
            if (sized.mask.window or 1) > seq:
                continue
            cases.append((sized, gpu))
            released += seq == wall and endless_reserved(sized, gpu) > (room_bytes(gpu) or 0)
    assert released >= 4
    assert wrong(explorer, cases) == []


def endless_reserved(case: Case, gpu: Gpu) -> int:
    """What a step would reserve of endless memory."""
    scratch = workspace(case.torch, gpu.compute_capability)
    return max(usage.reserved_peak for _, usage in replay(record(case), CachingAllocator(), scratch, STEPS).phases)


@pytest.mark.parametrize(("heads", "seq"), [(1, 2), (1, 4096), (5, 8192), (10, 8192)])
def test_at_the_allocators_borders(explorer: Any, heads: int, seq: int) -> None:
    """q takes 512 B, 1, 10 and 20 MiB: where a block, a small, a shared and an own segment begin; and a row beside."""
    gpu = load_gpu("A100")
    assert heads * seq * 128 * 2 in (512, 1 << 20, 10 << 20, 20 << 20)
    around = [
        make_case(algorithm, heads=heads, seq=seq + more, head_dim=128) for algorithm in OFFERED for more in (-1, 0, 1)
    ]
    assert wrong(explorer, [(case, gpu) for case in on_gpu(around, gpu)]) == []


def test_fragmentation_decides_as_predict_does(explorer: Any) -> None:
    """Naive attention's tensors fit an A100 at 16,384, its segments do not."""
    gpu = load_gpu("A100")
    case = make_case("naive", heads=32, seq=16384, head_dim=128)
    script = """
    const {prediction: {memory}, verdict} = memmodel.evaluate(arguments[0]);
    return [memory.allocated_peak_bytes, memory.capacity_bytes, memory.reserved_peak_bytes, memory.fits, verdict];
    """
    allocated, capacity, reserved, fits, verdict = explorer.execute_script(script, state_of(case, gpu))
    assert allocated < capacity < reserved
    assert fits is False
    assert verdict.endswith("and reserves 80.64 GiB by fragmentation")


@pytest.mark.parametrize("gpu", ["A100", "T4", "H100"])
def test_verdicts_are_in_the_same_words(explorer: Any, gpu: str) -> None:
    from memmodel.prediction import Report
    from memmodel.predictor import predict_case
    from memmodel.report.tables import verdicts

    device = load_gpu(gpu)
    cases = on_gpu(
        [make_case(a, heads=16, seq=n, dtype_name="fp16") for a in OFFERED for n in (2048, 12288, 65536)], device
    )
    report = Report(device, tuple(predict_case(case, device) for case in cases), (), ())
    states = [state_of(case, device) for case in cases]
    found = explorer.execute_script("return arguments[0].map((state) => memmodel.evaluate(state).verdict)", states)
    assert found == [line.words for line in verdicts(report)]


def test_what_is_shown_is_what_predict_shows(explorer: Any) -> None:
    from memmodel.predictor import TimeOptions, predict_case
    from memmodel.report.tables import ROWS

    halfway = make_case("naive", heads=9, seq=8192, head_dim=128)  # 1.125 GiB of scores: 1.12 in Python's rounding
    for case, gpu in [(halfway, load_gpu("A100")), *random_states(40, seed=7)]:
        predicted = predict_case(case, gpu, options=TimeOptions(served=False))  # the page has no time to expect
        expected = {name: text for name, cell in ROWS if name != "fits" and (text := cell(predicted))}
        shown = explorer.execute_script(SHOWN, state_of(case, gpu))
        assert {name: readable(text) for name, text in shown.items()} == {
            name: readable(text) for name, text in expected.items()
        }


SHOWN = """
location.hash = memmodel.toFragment(arguments[0]);
window.dispatchEvent(new Event("hashchange"));
return Object.fromEntries([...document.querySelectorAll("#figures div")].map((e) =>
  [e.querySelector("dt").textContent, e.querySelector("dd").textContent]));
"""


def readable(text: str) -> str:
    """A figure with one spelling of units and of large numbers."""
    number, _, unit = (
        text.replace("\N{NO-BREAK SPACE}", " ")
        .replace("\N{MICRO SIGN}s", "us")
        .replace("\N{EN DASH}", "-")
        .partition(" ")
    )
    return f"{float(number):g} {unit}" if re.fullmatch(r"[\d.e+-]*\d", number) else f"{number} {unit}"


def test_eager_and_fused_algorithms_are_all_there() -> None:
    assert set(EAGER) < set(OFFERED)

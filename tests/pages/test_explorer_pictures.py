"""What the page draws is what the pictures of the command line show: timeline, roofline, frontier."""

import json
from typing import Any

import pytest
from explorer_cases import as_json, random_states, resized_to, runs, state_of

from memmodel.attention.case import Case, make_case
from memmodel.attention.masks import mask as mask_named
from memmodel.base.errors import UsageError
from memmodel.cases import on_gpu
from memmodel.gpus import Gpu, load_gpu
from memmodel.pictures.roofline import roofline
from memmodel.pictures.timeline import timeline
from memmodel.prediction import Report
from memmodel.predictor import TimeOptions, predict_case
from memmodel.thresholds import threshold

STEP = 128


def evaluated(explorer: Any, case: Case, gpu: Gpu) -> Any:
    script = "return JSON.stringify(memmodel.evaluate(arguments[0]))"
    return json.loads(explorer.execute_script(script, state_of(case, gpu)))


def test_timelines_are_the_pictures(explorer: Any) -> None:
    for case, gpu in random_states(60, seed=3):
        expected, found = as_json(timeline(case, gpu)), evaluated(explorer, case, gpu)["timeline"]
        for name in ("moments", "bands", "peak", "title", "case", "memory"):
            assert found[name] == expected[name], name


def test_rooflines_are_the_pictures(explorer: Any) -> None:
    shown = 0
    for case, gpu in random_states(60, seed=4):
        found = evaluated(explorer, case, gpu)
        try:
            expected = roofline(Report(gpu, (predict_case(case, gpu, options=TimeOptions(served=False)),), (), ()))
        except UsageError:
            assert found["roofline"] is None
            assert any(note.startswith("no time: ") for note in found["prediction"]["notes"])
            continue
        for found_point, point in zip(found["roofline"]["points"], expected.points, strict=True):
            assert [each for each in found_point if isinstance(each, str)] == [p for p in point if isinstance(p, str)]
            numbers = [each for each in found_point if isinstance(each, float | int)]
            assert numbers == pytest.approx([p for p in point if isinstance(p, float | int)], rel=1e-12)
        assert found["roofline"]["balance"] == pytest.approx(expected.balance, rel=1e-12)
        assert [roof[0] for roof in found["roofline"]["roofs"]] == [roof.name for roof in expected.roofs]
        assert found["roofline"]["without"] == list(expected.without)
        shown += 1
    assert shown > 30


@pytest.mark.parametrize(
    ("gpu", "case"),
    [
        ("A100", make_case(heads=32, head_dim=128)),
        ("H100", make_case(heads=32, kv_heads=8, head_dim=128, mask=mask_named("causal"), phase="forward")),
        ("RTX 4090", make_case(heads=12, head_dim=64, dtype_name="fp16", mask=mask_named("window", 512))),
        ("T4", make_case(heads=8, head_dim=80, dtype_name="fp32", phase="inference")),
    ],
)
def test_the_frontier_is_what_max_finds(explorer: Any, gpu: str, case: Case) -> None:
    device = load_gpu(gpu)
    lines = frontier_lines(explorer, state_of(case, device))
    assert len(lines) == 6
    for algorithm, walls in lines.items():
        for batch in (1, 8, 64):
            (sized,) = on_gpu([Case(**{**_fields(case), "algorithm": algorithm, "batch": batch})], device)
            assert walls[batch] == threshold(sized, device, "seq", STEP).largest
            assert walls[batch] == 0 or runs(resized_to(sized, seq=walls[batch]), device)
            assert not runs(resized_to(sized, seq=walls[batch] + STEP), device)


def frontier_lines(explorer: Any, state: dict[str, Any]) -> dict[str, dict[int, int]]:
    """Algorithm -> batch -> the longest sequence that fits, of the page."""
    found = json.loads(explorer.execute_script("return JSON.stringify(memmodel.frontier(arguments[0]))", state))
    return {algorithm: dict(walls) for algorithm, *_, walls in found["lines"]}


def _fields(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in Case._fields}


def test_algorithms_that_cannot_run_are_left_out_of_the_frontier(explorer: Any) -> None:
    state = state_of(make_case(heads=8, head_dim=512), load_gpu("A100"))
    assert list(frontier_lines(explorer, state)) == ["naive", "naive-by-hand", "checkpointed", "compiled"]

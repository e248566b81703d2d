"""What the page draws is what the pictures of the command line show: timeline, roofline, frontier."""

from typing import Any

import pytest
from explorer_cases import random_states, resized_to, runs, state_of

from memmodel.case import Case, make_case
from memmodel.errors import UsageError
from memmodel.gpus import Gpu, load_gpu
from memmodel.masks import mask as mask_named
from memmodel.pictures.roofline import roofline
from memmodel.pictures.timeline import timeline
from memmodel.prediction import Report
from memmodel.predictor import on_gpu, predict_case
from memmodel.thresholds import threshold

STEP = 128


def evaluated(explorer: Any, case: Case, gpu: Gpu) -> Any:
    return explorer.execute_script("return memmodel.evaluate(arguments[0])", state_of(case, gpu))


def test_timelines_are_the_pictures(explorer: Any) -> None:
    for case, gpu in random_states(60, seed=3):
        expected, found = timeline(case, gpu), evaluated(explorer, case, gpu)["timeline"]
        moments = [
            (m.phase, m.what, m.live_bytes, m.allocated_bytes, m.reserved_bytes, m.saved_bytes)
            for m in expected.moments
        ]
        keys = ("phase", "what", "live", "allocated", "reserved", "saved")
        assert [tuple(moment[key] for key in keys) for moment in found["moments"]] == moments
        bands = [(b.name, b.kind, list(b.live_bytes), list(b.saved_bytes)) for b in expected.bands]
        assert [(b["name"], b["kind"], b["live"], b["saved"]) for b in found["bands"]] == bands
        assert found["peak"] == expected.peak


def test_rooflines_are_the_pictures(explorer: Any) -> None:
    shown = 0
    for case, gpu in random_states(60, seed=4):
        try:
            expected = roofline(Report(gpu, (predict_case(case, gpu),), (), ()))
        except UsageError:
            found = evaluated(explorer, case, gpu)
            assert found["time"] is None
            assert found["note"].startswith("no time: ")
            continue
        found = explorer.execute_script(
            "return memmodel.roofline(memmodel.evaluate(arguments[0]))", state_of(case, gpu)
        )
        points = [(p.kernel, p.launches, p.binding) for p in expected.points]
        assert [(p["name"], p["launches"], p["binding"]) for p in found["points"]] == points
        assert [p["rate"] for p in found["points"]] == pytest.approx([p.rate for p in expected.points], rel=1e-12)
        intensities = [p.intensity for p in expected.points]
        assert [p["intensity"] for p in found["points"]] == pytest.approx(intensities, rel=1e-12)
        assert found["balance"] == pytest.approx(expected.balance, rel=1e-12)
        assert [roof["name"] for roof in [found["memory"], *found["roofs"]]] == [roof.name for roof in expected.roofs]
        assert found["without"] == list(expected.without)
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
    lines = explorer.execute_script("return memmodel.frontier(arguments[0])", state_of(case, device))
    assert len(lines) == 6
    for line in lines:
        for wall in line["walls"]:
            if wall["batch"] not in (1, 8, 64):
                continue
            (sized,) = on_gpu(
                [Case(**{**_fields(case), "algorithm": line["algorithm"], "batch": wall["batch"]})], device
            )
            assert wall["largest"] == threshold(sized, device, "seq", STEP).largest
            assert wall["largest"] == 0 or runs(resized_to(sized, seq=wall["largest"]), device)
            assert not runs(resized_to(sized, seq=wall["largest"] + STEP), device)


def _fields(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in Case.__slots__}


def test_algorithms_that_cannot_run_are_left_out_of_the_frontier(explorer: Any) -> None:
    state = state_of(make_case(heads=8, head_dim=512), load_gpu("A100"))
    lines = explorer.execute_script("return memmodel.frontier(arguments[0])", state)
    assert [line["algorithm"] for line in lines] == ["naive", "naive-by-hand", "checkpointed", "compiled"]

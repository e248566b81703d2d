"""Attention really run on the CPU: every promise of the quick suite, and of the full one at its small sizes."""

from typing import Any

import pytest
from answers import CPU

from memmodel_validate.cpu_events import measure
from memmodel_validate.predictions import predict_trial, target
from memmodel_validate.suite import Trial, trials
from memmodel_validate.validation import Measurement, Run
from memmodel_validate.verdict import Verdict, judge

ONCE = {"warm_up": "0", "least": "1", "most": "1", "budget": "0"}
SMALL = [trial for trial in trials("cpu", "full") if trial.case.seq <= 512]


def verdict(trial: Trial, predicted: Trial | None = None) -> Verdict:
    """The verdict on a real run of a trial, held against the prediction of that or of another."""
    import torch

    threads = torch.get_num_threads()
    found: dict[str, Any] = measure(trial, threads, ONCE)
    measured = {name: Measurement(unit, tuple(samples)) for name, (unit, samples) in found["measured"].items()}
    run = Run("test", trial.implementation, {}, measured, detail={"events": found["events"]})
    return judge(trial, run, predict_trial(predicted or trial, target(CPU, None)))


@pytest.mark.parametrize("trial", SMALL, ids=lambda trial: trial.name)
def test_promises_hold_to_the_byte(trial: Trial) -> None:
    found = verdict(trial)
    assert found.broken == ()
    assert found.kept == trial.promised
    assert [t.quantity for t in found.times] == ["forward_time", "backward_time"][: 1 + (trial.case.phase == "train")]
    if trial.promised:
        assert found.events is not None
        assert found.events.all_equal
        assert {row.quantity for row in found.memory if row.equal} >= {"saved", "live_peak_fwd"}


def test_a_wrong_prediction_is_a_broken_promise() -> None:
    by_name = {trial.name: trial for trial in SMALL}
    found = verdict(by_name["naive-512"], predicted=by_name["naive-causal-512"])
    assert not found.kept
    assert "saved: 4194304 B (4.00 MiB), predicted 4456448 B (4.25 MiB)" in found.broken
    assert any("events equal; event" in promise for promise in found.broken)


def test_a_library_that_keeps_more_is_measured_and_not_judged() -> None:
    found = verdict({trial.name: trial for trial in SMALL}["sdpa-math-512"])
    assert found.events is None
    assert {row.quantity: row.predicted for row in found.memory} == dict.fromkeys(
        ("saved", "live_peak_fwd", "live_peak_bwd")
    )

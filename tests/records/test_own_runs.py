"""Our own runs on record: judged again by today's model, to the byte, with a calibration where there is one."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from memmodel.timing import known
from memmodel_validate import environment, validation_runs
from memmodel_validate.comparison import Comparison
from memmodel_validate.events import packed
from memmodel_validate.ledger import Measurement, Run, Source, append, read
from memmodel_validate.predictions import predict_trial, target
from memmodel_validate.suite import Trial, case_dict, trials

ENVIRONMENT = {
    **{"gpu": "none", "gpu_id": "cpu", "compute_capability": "", "torch": "2.13.0", "triton": "", "driver": ""},
    **{"cpu": "A Processor", "threads": "1", "python": "3.12.0"},
}
SOURCE = environment.source(ENVIRONMENT, environment.CPU_PROTOCOL)


@pytest.fixture
def trial() -> Trial:
    return trials("cpu", "quick", ["naive-causal-512"])[0]


def run_as_predicted(trial: Trial, source: Source = SOURCE, **more: Measurement) -> Run:
    """A record of a run in which everything was as the model says."""
    model = predict_trial(trial, target(source.environment, None))
    assert model.events is not None
    measured = {name: Measurement("B", (float(n),)) for name, n in model.memory.items()}
    detail: dict[str, Any] = {"name": trial.name, "events": packed(list(model.events))}
    return Run(source.name, trial.implementation, case_dict(trial.case), {**measured, **more}, detail=detail)


def judged(tmp_path: Path, run: Run, source: Source = SOURCE) -> list[Comparison]:
    path = tmp_path / "runs.jsonl"
    append(path, [source, run])
    found = validation_runs.judge_runs(read(path))
    assert not any("own runs" not in reason for reason in found.left_out)
    return list(found.comparisons)


def test_a_run_as_predicted_is_exact_in_every_quantity(tmp_path: Path, trial: Trial) -> None:
    found = judged(tmp_path, run_as_predicted(trial))
    assert {one.quantity for one in found} == {"memory"}
    assert {one.gpu for one in found} == {"A Processor"}
    assert len(found) == 4  # saved, two live peaks, events
    assert all(one.exact for one in found)


def test_one_byte_more_is_not_exact(tmp_path: Path, trial: Trial) -> None:
    run = run_as_predicted(trial)
    measured = run.measured["live_peak_bwd"].value
    off = replace(run, measured={**run.measured, "live_peak_bwd": Measurement("B", (measured + 1,))})
    (wrong,) = (one for one in judged(tmp_path, off) if not one.exact)
    assert (wrong.measured, wrong.predicted) == (measured + 1, measured)
    assert "live_peak_bwd" in wrong.what


def test_a_part_of_a_byte_more_is_not_exact(tmp_path: Path, trial: Trial) -> None:
    run = run_as_predicted(trial)
    more = Measurement("B", (run.measured["saved"].value + 0.5,))
    found = judged(tmp_path, replace(run, measured={**run.measured, "saved": more}))
    assert [one.what.split(":")[0] for one in found if not one.exact] == [f"{trial.name}, saved"]


def test_an_event_that_differs_is_counted(tmp_path: Path, trial: Trial) -> None:
    run = run_as_predicted(trial)
    births = [i for i, event in enumerate(run.detail["events"]) if isinstance(event, int) and event > 0]
    events = list(run.detail["events"])
    events[births[-1]] += 64
    found = judged(tmp_path, replace(run, detail={**run.detail, "events": events}))
    (wrong,) = (one for one in found if not one.exact)
    assert wrong.predicted < wrong.measured


def calibrate_by_hand(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor of 100 GFLOP/s and 10 GB/s, whose sums run at 5 GB/s."""
    monkeypatch.setenv(known.HOME, str(home))
    constants = {"bandwidth": (1e10, "B/s"), "reduction": (5e9, "B/s"), "matmul.fp32": (1e11, "FLOP/s")}
    document = {
        **{"schema": 1, "kind": "calibration", "name": "by hand", "basis": "local"},
        **{"machine": {"gpu_id": "cpu"}, "notes": []},
        "constants": {n: {"value": v, "unit": u, "origin": "here"} for n, (v, u) in constants.items()},
    }
    path = Path(known.local_path("cpu"))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))


def test_times_are_judged_by_this_machines_calibration(
    tmp_path: Path, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate_by_hand(tmp_path / "home", monkeypatch)
    model = predict_trial(trial, target(ENVIRONMENT, validation_runs.calibration_of(SOURCE)))
    assert model.times is not None
    seconds = model.times["forward_time"]
    run = run_as_predicted(trial, forward_time=Measurement("s", (seconds / 2,)))
    (time,) = (one for one in judged(tmp_path, run) if one.quantity == "CPU time")
    assert time.predicted == pytest.approx(2 * time.measured)
    assert time.error == pytest.approx(1.0)
    assert time.roofline is not None
    assert time.roofline <= time.error  # the roofline knows one bandwidth, the larger, so it is shorter


def test_without_a_calibration_there_is_no_time(tmp_path: Path, trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(known.HOME, str(tmp_path / "empty"))
    run = run_as_predicted(trial, forward_time=Measurement("s", (1.0,)))
    assert {one.quantity for one in judged(tmp_path, run)} == {"memory"}


def test_the_longest_sequence_is_a_number_of_memory_too(tmp_path: Path) -> None:
    gpu = {**ENVIRONMENT, "gpu": "NVIDIA H200", "gpu_id": "h200-sxm", "compute_capability": "9.0"}
    source = environment.source(gpu, environment.CUDA_PROTOCOL)
    trial = next(t for t in trials("cuda", "quick") if t.cap is not None)
    model = predict_trial(trial, target(gpu, None))
    assert model.boundary is not None
    sizes = dict(zip(("largest_seq", "first_failing_seq"), model.boundary, strict=True))
    case = {k: v for k, v in case_dict(trial.case).items() if k not in ("seq", "kv_seq")} | {"capacity": trial.cap}
    measured = {name: Measurement("", (float(n),)) for name, n in sizes.items()}
    run = Run(source.name, trial.implementation, case, measured, detail={"name": trial.name})
    found = judged(tmp_path, run, source)
    assert [one.exact for one in found] == [True, True]
    assert model.boundary[0] > 64  # and not where the search begins

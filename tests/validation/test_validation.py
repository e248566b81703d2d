"""The run of a suite: records are kept whatever happens, nothing runs twice, and a wrong model shows."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answers import CPU, H100, Answer, Job, Watched, as_predicted, plan

from memmodel.report.console import text
from memmodel.report.validation import validation_tables
from memmodel.timing import Calibration, Constant
from memmodel_validate import ledger, validation
from memmodel_validate.document import document
from memmodel_validate.environment import source
from memmodel_validate.predictions import predict_trial, target
from memmodel_validate.suite import trials

NAMES = ("naive-512", "chunked-512", "by-hand-512")
Patch = Callable[[Answer], None]


@pytest.fixture
def answer_with(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Puts another worker in place of the real one, and leaves out how busy the machine is."""
    monkeypatch.setattr(validation, "busy", lambda: 0.0)
    return lambda answer: monkeypatch.setattr(validation, "ask", answer)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.jsonl"


def recorded(path: Path) -> list[Any]:
    return [run.detail["name"] for run in ledger.read(path).runs]


def test_every_promise_of_a_right_model_holds(path: Path, answer_with: Patch) -> None:
    of = plan(path)
    answer_with(as_predicted(of))
    found = validation.execute(of, Watched())
    assert found.kept
    promises = document(found)["promises"]
    assert promises["cases"] == promises["kept"] == 12
    assert promises["events"] == promises["events_equal"] > 400


def test_one_byte_more_breaks_a_promise_and_comes_first(path: Path, answer_with: Patch) -> None:
    of = plan(path, *NAMES)
    right = as_predicted(of)

    def wrong(job: Job, timeout: float) -> Job:
        found = right(job, timeout)
        if job["name"] == "chunked-512":
            found["measured"]["live_peak_bwd"][1][0] += 1
        return found

    answer_with(wrong)
    found = validation.execute(of, Watched())
    assert not found.kept
    assert found.verdicts[0].trial.name == "chunked-512"
    (broken,) = document(found)["broken"]
    assert broken["promise"].startswith("live_peak_bwd: 7208961 B (6.88 MiB), predicted 7208960 B")
    assert document(found)["promises"] == {"cases": 3, "kept": 2, "events": 198, "events_equal": 198}


def test_an_event_in_another_place_breaks_a_promise(path: Path, answer_with: Patch) -> None:
    of = plan(path, "naive-512")
    right = as_predicted(of)

    def wrong(job: Job, timeout: float) -> Job:
        found = right(job, timeout)
        events = found["events"]
        late = events.index(-5)
        events[late], events[late + 1] = events[late + 1], events[late]
        return found

    answer_with(wrong)
    (verdict,) = validation.execute(of, Watched()).verdicts
    (broken,) = verdict.broken
    assert broken.startswith("24 of 26 events equal; event 7: alloc of 4194304 B (4.00 MiB, storage 7)")


def test_a_crash_is_recorded_and_the_next_case_goes_on(path: Path, answer_with: Patch) -> None:
    of = plan(path, *NAMES)
    right = as_predicted(of)
    crash: Job = {"failed": "ended by signal SIGSEGV"}
    answer_with(lambda job, timeout: crash if job["name"] == "naive-512" else right(job, timeout))
    watched = Watched()
    found = validation.execute(of, watched)
    assert not found.kept
    assert [how for _, how in watched.ended] == [
        "failed: ended by signal SIGSEGV", "equal to the byte", "equal to the byte"]  # fmt: skip
    assert ledger.read(path).runs[0].detail["failed"] == "ended by signal SIGSEGV"
    assert document(found)["broken"] == []
    answer_with(right)
    assert validation.execute(of, watched).kept  # what failed is tried again
    assert recorded(path) == [*NAMES, "naive-512"]


def test_an_interrupted_run_keeps_its_records_and_goes_on(path: Path, answer_with: Patch) -> None:
    of = plan(path, *NAMES)
    right = as_predicted(of)
    asked: list[str] = []

    def interrupted(job: Job, timeout: float) -> Job:
        if job["name"] == "by-hand-512" and "by-hand-512" not in asked:
            asked.append(job["name"])
            raise KeyboardInterrupt
        asked.append(job["name"])
        return right(job, timeout)

    answer_with(interrupted)
    with pytest.raises(KeyboardInterrupt):
        validation.execute(of, Watched())
    assert recorded(path) == ["naive-512", "chunked-512"]
    found = validation.execute(of, Watched())
    assert asked == [*NAMES, "by-hand-512"]
    assert recorded(path) == list(NAMES)
    assert sorted(o.trial.name for o in found.outcomes if o.resumed) == ["chunked-512", "naive-512"]
    validation.execute(replace(of, again=True), Watched())
    assert asked == [*NAMES, "by-hand-512", *NAMES]


def test_another_environment_or_protocol_is_another_source(path: Path, answer_with: Patch) -> None:
    of = plan(path, "naive-512")
    answer_with(as_predicted(of))
    validation.execute(of, Watched())
    newer = plan(path, "naive-512", environment={**CPU, "torch": "2.14.0"})
    (outcome,) = validation.execute(newer, Watched()).outcomes
    assert not outcome.resumed
    assert source(CPU, {}).name != source(CPU, {"warm_up": "3"}).name
    assert source(CPU, {}) == source(dict(reversed(CPU.items())), {})


def test_a_record_is_held_against_todays_model(path: Path, answer_with: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    of = plan(path, "naive-512")
    answer_with(as_predicted(of))
    assert validation.execute(of, Watched()).kept
    other = predict_trial(replace(of.trials[0], case=trials("cpu", names=["naive-causal-512"])[0].case), of.target)
    monkeypatch.setattr(validation, "predict_trial", lambda trial, target: other)
    found = validation.execute(of, Watched())
    assert found.outcomes[0].resumed
    assert not found.kept


def test_a_case_that_needs_more_than_there_is_free_is_left_out(path: Path, answer_with: Patch) -> None:
    of = replace(plan(path, *NAMES), free=1 << 20)
    answer_with(as_predicted(of))
    watched = Watched()
    found = validation.execute(of, watched)
    assert found.verdicts == []
    assert ledger.read(path).runs == ()
    assert watched.ended[0][1] == "left out: needs about 527.00 MiB, and 1.00 MiB are free"


def test_what_a_gpu_cannot_hold_is_tried_and_what_others_hold_is_not() -> None:
    (large,) = trials("cuda", names=["naive-4096"])
    of = plan(Path("unused"), environment=H100)
    assert validation._too_large(replace(of, free=1 << 30, total=80 << 30), large)
    assert not validation._too_large(replace(of, free=1 << 30, total=1 << 30), large)


def test_running_out_of_memory_where_it_was_predicted_to_fit_breaks_a_promise(path: Path, answer_with: Patch) -> None:
    of = plan(path, "naive-1024", environment=H100)
    answer_with(lambda job, timeout: {"out_of_memory": True})
    found = validation.execute(of, Watched())
    assert found.verdicts[0].broken == ("ran out of memory, predicted to fit",)


def test_a_processor_that_runs_out_of_memory_keeps_no_promise_and_is_asked_again(
    path: Path, answer_with: Patch
) -> None:
    of = plan(path, "naive-512")
    answer_with(lambda job, timeout: {"out_of_memory": True})
    found = validation.execute(of, Watched())
    assert not found.kept
    assert found.verdicts[0].failed == "ran out of memory"
    answer_with(as_predicted(of))
    assert validation.execute(of, Watched()).kept


def test_running_out_of_memory_as_predicted_keeps_the_promise(path: Path, answer_with: Patch) -> None:
    of = plan(path, "naive-1024", environment=H100)
    small = target(H100, None, total=256 << 20)
    answer_with(lambda job, timeout: {"out_of_memory": True})
    assert validation.execute(replace(of, target=small), Watched()).kept
    answer_with(as_predicted(of))
    (verdict,) = validation.execute(replace(of, target=small, again=True), Watched()).verdicts
    assert verdict.broken == ("ran, predicted to run out of memory",)


def test_the_longest_sequence_is_searched_from_the_models_answer(path: Path, answer_with: Patch) -> None:
    """Naive in 4 GiB: its backward holds five score matrices (16 heads, bf16), four inputs and two workspaces."""
    of = plan(path, "longest-naive", environment=H100)
    answer_with(as_predicted(of))
    found = validation.execute(of, Watched())
    assert found.kept
    (run,) = ledger.read(path).runs
    largest, first = run.detail["tried"]
    assert (run.measured["largest_seq"].value, run.measured["first_failing_seq"].value) == (largest, first)
    assert first == largest + 64
    assert 5 * 16 * 2 * largest**2 < 4 << 30 < 5 * 16 * 2 * first**2 + 4 * 16 * first * 128 * 2 + 2 * (32 << 20)
    assert run.case["capacity"] == 4 << 30
    answer_with(lambda job, timeout: {"runs": job["case"]["seq"] <= largest - 128})
    (verdict,) = validation.execute(replace(of, again=True), Watched()).verdicts
    assert verdict.boundary == (largest - 128, largest - 64)
    assert verdict.broken == (
        f"longest sequence {largest - 128}, first that fails {largest - 64}, predicted ({largest}, {first})",
    )


@pytest.mark.parametrize("environment", [CPU, H100], ids=["cpu", "cuda"])
def test_tables_fit_80_columns_and_every_key_is_documented(
    path: Path, answer_with: Patch, environment: dict[str, str]
) -> None:
    of = plan(path, environment=environment, suite="full")
    answer_with(as_predicted(of))
    found = document(validation.execute(of, Watched()))
    lines = text(validation_tables(found), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    page = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")
    keys = set(found) | set(found["cases"][0]) | {key for case in found["cases"] for key in (*case["memory"],)}
    keys |= set(found["promises"]) | set(found["environment"]) | set(found["protocol"]) | {"longest", "tried"}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []
    assert json.loads(json.dumps(found)) == found


def test_times_of_a_processor_are_those_of_its_calibration() -> None:
    """Naive inference at rates that make one term of each kernel count: two products of n² d multiply-adds a head."""
    rates = {"matmul.fp32": 1e9, "bandwidth": 1e15, "exp": 1e15, "launch": 1e-12}
    constants = {name: Constant(rate, "by hand") for name, rate in rates.items()}
    of = target(CPU, Calibration("by hand", "local", {"gpu_id": "cpu"}, constants))
    by_name = {trial.name: trial for trial in trials("cpu")}
    found = predict_trial(by_name["naive-inference-512"], of)
    assert found.times == {"forward_time": pytest.approx(2 * 4 * 512**2 * 64 * 2 / 1e9, rel=1e-3)}
    assert found.binding == "fp32 units"
    assert predict_trial(by_name["naive-bf16-512"], of).no_time == "the calibration has no rates of bf16 arithmetic"
    assert predict_trial(by_name["sdpa-flash-512"], of).no_time == "the calibration has no rates of flash attention"
    assert predict_trial(by_name["naive-512"], target(CPU, None)).no_time.endswith("run `memmodel calibrate`")
    flash = {f"{p}.{name}": Constant(1e9 if name == "flops" else 1e15, "by hand")
             for p in ("flash", "flash_backward") for name in ("flops", "exp")}  # fmt: skip
    of = target(CPU, Calibration("by hand", "local", {"gpu_id": "cpu"}, {**constants, **flash}))
    times = predict_trial(by_name["sdpa-flash-512"], of).times
    assert times is not None  # two products forward, five backward
    assert times["forward_time"] == pytest.approx(2 * 4 * 512**2 * 64 * 2 / 1e9, rel=1e-3)
    assert times["backward_time"] == pytest.approx(5 * 4 * 512**2 * 64 * 2 / 1e9, rel=1e-3)


def test_a_processors_threads_are_the_calibrations() -> None:
    assert validation._threads("cpu", None) == 1
    assert validation._threads("cpu", Calibration("x", "local", {"threads": "3"}, {})) == 3
    assert validation._threads("cpu", Calibration("x", "local", {}, {})) == 1


def test_a_calibration_of_another_machine_is_doubted(path: Path, answer_with: Patch) -> None:
    made = {"gpu_id": "cpu", "torch": "2.11.0", "threads": "8"}
    of = plan(path, "naive-512")
    of = replace(of, target=replace(of.target, calibration=Calibration("x", "local", made, {})))
    answer_with(as_predicted(of))
    assert validation.execute(of, Watched()).notes == (
        "the calibration was made with torch 2.11.0, not 2.13.0",
        "the calibration was made with --threads 8, these runs with --threads 2",
    )

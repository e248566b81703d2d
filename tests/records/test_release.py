"""What the package ships of the evidence is what the evidence computes, and serves where there is no evidence."""

from dataclasses import replace

import pytest

import memmodel_evidence.judging
from memmodel_evidence.judging import accuracy as computed
from memmodel_evidence.models_judging import MEGATRON, printed, published, published_times
from memmodel_evidence.records import everything
from memmodel_evidence.release import gpu_ids, points
from memmodel_validate import accuracy as judging
from memmodel_validate.accuracy import accuracy, at_release, known_accuracy, models_at_release
from memmodel_validate.accuracy_table import markdown
from memmodel_validate.ledger import append
from memmodel_validate.measured_points import recorded

pytestmark = pytest.mark.usefixtures("judged_once")
STALE = "run `python -m memmodel_evidence.release`"


def test_the_shipped_accuracy_is_what_the_evidence_computes() -> None:
    shipped, ids = at_release()
    now = memmodel_evidence.judging.others_on_record()
    assert shipped.left_out == now.left_out, STALE
    for before, after in zip(shipped.comparisons, now.comparisons, strict=True):
        near = replace(after, predicted=pytest.approx(after.predicted), roofline=pytest.approx(after.roofline))
        assert before == near, STALE
    assert ids == gpu_ids()


def test_the_shipped_points_are_what_the_evidence_computes() -> None:
    for before, after in zip(recorded(), points(), strict=True):
        seconds = pytest.approx(after.point.predicted_seconds)
        assert before == replace(after, point=after.point._replace(predicted_seconds=seconds)), STALE


def test_the_shipped_steps_are_what_the_evidence_computes() -> None:
    """Those of ranks take long, and have a test of their own."""
    shipped = [one for one in models_at_release().comparisons if one.subject != MEGATRON]
    of_memory = [one for one in shipped if "step time" not in one.quantity]
    for before, after in zip(of_memory, [*printed(), *published()], strict=True):
        assert before == replace(after, predicted=pytest.approx(after.predicted)), STALE
    predicted = [one.predicted for one in shipped if "step time" in one.quantity]
    assert predicted == pytest.approx([step.predicted for step in published_times()]), STALE


@pytest.fixture
def _no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "find_spec", lambda name: None)


@pytest.mark.usefixtures("_no_evidence")
def test_a_package_without_the_evidence_gives_the_same_answer() -> None:
    found, now = accuracy(), computed()
    assert markdown(found, by_table=True) == markdown(now, by_table=True)
    assert "were compared when" in "".join(found.notes)
    assert not now.notes
    assert {known.where for known in known_accuracy("h100-sxm", ["flash", "naive"])} == {"this GPU", "all GPUs"}


@pytest.mark.usefixtures("_no_evidence")
def test_a_package_without_the_evidence_says_what_it_cannot_judge(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ledger") / "mine.jsonl"
    table = everything().sources["yyin-eager"]
    append(path, [table, *everything().of("yyin-eager")[:3]])
    reasons = {reason: count for reason, count in accuracy(str(path)).left_out.items() if "checkout" in reason}
    assert list(reasons.values()) == [3]

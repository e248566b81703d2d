"""Real gloo processes: every rank's allocator events in two steps are those of its trace. A quick part of the suite."""

import sys
from pathlib import Path

import pytest

from memmodel.base.errors import UsageError
from memmodel_validate.ranks import comparison
from memmodel_validate.ranks.cases import RankCase, rank_cases
from memmodel_validate.ranks.comparison import RanksFailedError, compare

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="gloo's threads are ordered there")]


@pytest.mark.parametrize("name", ["fsdp-2", "ddp-2"])
def test_ranks_are_as_traced(name: str) -> None:
    (case,) = rank_cases([name])
    for result in compare(case, 120):
        assert result.difference == ""
        assert result.peak_bytes == result.predicted_peak_bytes


def test_a_hang_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A rank that waits for another for ever: no result in time, and no process left behind."""
    started = []

    def start(*given: object) -> object:
        started.extend(really(*given))
        return started

    really = comparison._started
    monkeypatch.setattr(comparison, "_started", start)
    monkeypatch.setattr(comparison.sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(RanksFailedError, match=r"fsdp-2: no result within 0.5 s; it said: nothing"):
        comparison.measure(RankCase("fsdp", 2), 0.5)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_an_unknown_case() -> None:
    with pytest.raises(UsageError, match="fsdp-2"):
        rank_cases(["fsdp-9"])

"""A decoder that ranks share: gradients of real processes are those of one, and events those of the recording."""

from pathlib import Path

import pytest

from memmodel_validate.ranks.cases import RankCase
from memmodel_validate.ranks.comparison import compare
from memmodel_validate.ranks.decoders import LAYOUTS
from rank_processes import run_ranks

WORKER = Path(__file__).with_name("decoder_worker.py")


@pytest.mark.slow
def test_gradients_of_shares_are_shares_of_gradients(tmp_path: Path) -> None:
    run_ranks(2, WORKER, tmp_path, *(name for name in LAYOUTS if name != "decoder_sp_1f1b"))


@pytest.mark.slow
def test_four_ranks_share_as_two_do(tmp_path: Path) -> None:
    run_ranks(4, WORKER, tmp_path, "decoder_sp", "decoder_sp_1f1b", "decoder_1f1b")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["decoder_sp"])
def test_events_are_those_of_the_recording(program: str) -> None:
    assert [result.difference for result in compare(RankCase(program, 2), 120)] == ["", ""]

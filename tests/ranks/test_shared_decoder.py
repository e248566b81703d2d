"""A decoder that ranks share: gradients of real processes are those of one, and events those of the recording."""

from pathlib import Path

import pytest

from memmodel_validate.ranks.cases import RankCase
from memmodel_validate.ranks.comparison import compare
from memmodel_validate.ranks.decoders import PROGRAMS
from rank_processes import run_ranks

WORKER = Path(__file__).with_name("decoder_worker.py")
# Two kinds of parallelism at a time.
OF_FOUR = (
    "decoder_sp_1f1b",
    "decoder_fsdp_1f1b",
    "decoder_sp_cp",
    "decoder_cp_1f1b",
    "decoder_ep_sp",
    "decoder_zero_2_sp",
)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_gradients_of_shares_are_shares_of_gradients(world: int, tmp_path: Path) -> None:
    # In 16 bits, the gradients of GPT's key biases, which are zero, are all rounding.
    of_two = [name for name in PROGRAMS if name not in (*OF_FOUR, "decoder_autocast_tp")]
    names = [*OF_FOUR, "decoder_ep", "decoder_ep_zero_1", "decoder_ep_zero_2"] if world == 4 else of_two
    run_ranks(world, WORKER, tmp_path, *names)


@pytest.mark.slow
def test_events_are_those_of_the_recording() -> None:
    assert [result.difference for result in compare(RankCase("decoder_sp", 2), 120)] == ["", ""]

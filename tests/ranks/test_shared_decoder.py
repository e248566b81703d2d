"""A decoder that ranks share: gradients of real processes are those of one, and events those of the recording."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from memmodel_validate.ranks.cases import RankCase
from memmodel_validate.ranks.comparison import compare
from memmodel_validate.ranks.decoders import LAYOUTS


def run(world: int, *programs: str) -> None:
    """Run `decoder_worker.py` on so many processes; its own assertions fail it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join(p for p in sys.path if p)
    common = {**os.environ, "PYTHONPATH": paths, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(Path(__file__).with_name("decoder_worker.py")), *programs]
    ranks = [
        subprocess.Popen(command, env={**common, "WORLD_SIZE": str(world), "RANK": str(r)}, stderr=subprocess.PIPE)
        for r in range(world)
    ]
    try:
        said = [rank.communicate(timeout=120)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, said


@pytest.mark.slow
def test_gradients_of_shares_are_shares_of_gradients() -> None:
    run(2, *(name for name in LAYOUTS if name != "decoder_sp_1f1b"))


@pytest.mark.slow
def test_four_ranks_share_as_two_do() -> None:
    run(4, "decoder_sp", "decoder_sp_1f1b", "decoder_1f1b")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["decoder_sp"])
def test_events_are_those_of_the_recording(program: str) -> None:
    assert [result.difference for result in compare(RankCase(program, 2), 120)] == ["", ""]

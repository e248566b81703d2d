"""Megatron-LM's mixtures over real processes: results and gradients are those of one process with all experts."""

from pathlib import Path

import pytest

from rank_processes import run_ranks


@pytest.mark.slow
def test_a_shared_mixture_is_the_whole_one(tmp_path: Path) -> None:
    """Four ranks: experts and widths shared, by either dispatcher, in groups or one by one, with gates or without."""
    run_ranks(4, Path(__file__).with_name("mixture_worker.py"), tmp_path)

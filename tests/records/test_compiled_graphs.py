"""Which graph torch.compile runs: as PyTorch compiles, and as recorded memory tells where it ran none."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from memmodel_evidence import attention as scripts
from memmodel_evidence.graphs import compiled_for, graphs
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.records import everything

SIZES = tuple(product((16, 32, 64), (20, 40, 80)))  # head dims, and for each the lengths


def by_number(q: Any) -> Any:
    return q @ q.transpose(-1, -2) / math.sqrt(q.shape[-1])


def by_numpy(q: Any) -> Any:
    return q @ q.transpose(-1, -2) / np.sqrt(q.shape[-1])


@pytest.mark.compiler
@pytest.mark.parametrize(("function", "one_head_dim"), [(by_number, False), (by_numpy, True)])
def test_pytorch_compiles_at_these_sizes(function: Callable[[Any], Any], one_head_dim: bool) -> None:
    """No graph here needs 64-bit indices, so that each call runs the first that takes it."""
    compiled_at: list[tuple[int, int]] = []

    def count(module: Any, inputs: list[Any]) -> Any:
        compiled_at.append(next((one.shape[2], one.shape[1]) for one in inputs if isinstance(one, torch.Tensor)))
        return module.forward

    torch._dynamo.reset()
    compiled = torch.compile(function, backend=count)
    for d, n in SIZES:
        compiled(torch.ones(2, n, d))
    torch._dynamo.reset()
    ours = [graph.compiled_at for _, graph in graphs(SIZES, 2, one_head_dim=one_head_dim) if graph]
    assert [(int(d), int(n)) for d, n in compiled_at] == list(dict.fromkeys(ours))


def test_what_has_no_graph_left_is_what_memory_shows_to_have_run_eager() -> None:
    """Two scripts reach the limit of 8 graphs; the memory of other rows is that of compiled code, to the digit."""
    lasts = {"brandon-compiled": scripts.at_most_eight_graphs, "tianqguo-h100-compiled": scripts.last_size_runs_eager}
    for name, script in lasts.items():
        assert getattr(HARNESSES[name], "keywords", {})["attention"] is script
    ran = {
        "brandon-compiled": dict(graphs(product((16, 32, 64, 128), (256, 1024, 4096, 8192, 16384)), 8, limit=4)),
        "tianqguo-h100-compiled": dict(
            graphs(product((16, 32, 64, 128), (256, 1024, 4096, 8192, 16384)), 8, one_head_dim=True)
        ),
    }
    for name, found in ran.items():
        eager = {(run.case["head_dim"], run.case["seq"]) for run in everything().of(name) if "eager" in run.note}
        printed = {(run.case["head_dim"], run.case["seq"]) for run in everything().of(name)}
        assert {size for size, graph in found.items() if graph is None} & printed == eager == {(128, 16384)}


def test_rows_know_what_their_code_was_compiled_for() -> None:
    """The first head dim has its own code; the next runs code made at n = 256, until 16384 needs 64-bit indices."""
    source = everything().sources["yyin-compiled"]
    found = {
        (run.case["head_dim"], run.case["seq"]): tuple(compiled_for(run, source))
        for run in everything().of("yyin-compiled")
    }
    assert {found[16, n] for n in (4096, 8192, 16384)} == {(False, False)}
    assert {found[32, n] for n in (4096, 8192)} == {(True, True)}
    assert {found[32, 16384], *(found[d, n] for d in (64, 128) for n in (4096, 8192))} == {(True, False)}

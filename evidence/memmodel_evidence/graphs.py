"""Which of its graphs torch.compile runs for each size of a script, and for which sizes that one was compiled.

A dimension that differs from one compiled before is a symbol from then on (torch/_dynamo, `automatic_dynamic_shapes`).
Of the graphs that take a call, the one used last runs (torch/csrc/dynamo/extra_state.cpp, `lookup`); none is compiled
beyond `recompile_limit`. Code with 32-bit indices is guarded by the scores' elements, with 64-bit indices by nothing
(torch/_inductor/codegen/simd.py, `can_use_32bit_indexing`). Its loops are laid out for the length of the call that
compiled it (`memmodel.timing.terms.LONG_STEP`).
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from memmodel.timing.machine import ITS_OWN, CompiledFor
from memmodel.timing.terms import LONG_STEP
from memmodel_evidence.records import everything
from memmodel_validate.ledger import Run, Source

_INDEX = 2**31  # elements from which on indices have 64 bits
_LIMIT = 8  # torch._dynamo.config.recompile_limit
Size = tuple[int, int]  # of a call: head dim and length


class Graph(NamedTuple):
    """A compiled graph: the head dim and the length that it takes (0: any), the elements that it indexes, its hint."""

    head_dim: int
    seq: int
    elements: float
    compiled_at: Size

    def takes(self, size: Size, elements: int) -> bool:
        """Whether its guards let a call through."""
        return self.head_dim in (0, size[0]) and self.seq in (0, size[1]) and elements < self.elements


def graphs(
    sizes: Iterable[Size], batch: int, dynamic: bool = False, one_head_dim: bool = False, limit: int = _LIMIT
) -> Iterator[tuple[Size, Graph | None]]:
    """The graph that runs at each size of a script, in order; None where the limit is reached, so that it runs eager.

    `dynamic`: torch.compile(dynamic=True). `one_head_dim`: the function reads the head dim as a number, as numpy does.
    """
    latest_first: list[Graph] = []
    for size in sizes:
        elements = batch * size[1] ** 2
        found = next((graph for graph in latest_first if graph.takes(size, elements)), None)
        if found is not None:
            latest_first.remove(found)
        elif len(latest_first) < limit:
            before = [graph.compiled_at for graph in latest_first]
            any_dim, any_seq = (dynamic or any(one[i] != size[i] for one in before) for i in (0, 1))
            any_dim &= not one_head_dim
            bound = _INDEX if elements < _INDEX else float("inf")
            found = Graph(0 if any_dim else size[0], 0 if any_seq else size[1], bound, size)
        if found is not None:
            latest_first.insert(0, found)
        yield size, found


@cache
def _graphs_of(name: str) -> dict[Size, Graph | None]:
    """The graph of each size in a source's script, by what its protocol says of the script."""
    source = everything().sources[name]
    how = source.protocol.get("compile", "")
    rows = [run.case for run in everything().of(name) if {"batch", "seq", "head_dim"} <= run.case.keys()]
    lengths = list(dict.fromkeys(case["seq"] for case in rows))
    unprinted = [(int(d), n) for d in source.protocol.get("earlier_head_dims", "").split() for n in lengths]
    sizes = [*unprinted, *((case["head_dim"], case["seq"]) for case in rows)]
    # Each mode of gradients has graphs of its own under one limit.
    limit = _LIMIT // 2 if how == "with and without gradients" else _LIMIT
    return dict(graphs(sizes, rows[0]["batch"], how == "dynamic", how == "one head dim", limit))


def compiled_for(run: Run, source: Source) -> CompiledFor:
    """What the code that a run ran was compiled for; `ITS_OWN` of what was not compiled."""
    if run.implementation != "compiled" or "attention" not in source.protocol or run.source not in everything().sources:
        return ITS_OWN
    graph = _graphs_of(run.source)[run.case["head_dim"], run.case["seq"]]
    if graph is None:
        return ITS_OWN
    return CompiledFor(not graph.head_dim, graph.compiled_at[1] < LONG_STEP <= run.case["seq"])

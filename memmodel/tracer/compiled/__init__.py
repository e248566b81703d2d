"""Traces of `torch.compile`d code: dynamo, AOTAutograd and Inductor run for real, up to the kernels.

The code that Inductor generates for a graph (its wrapper: allocations, kernel calls, reuses, deletions) runs inside
AOTAutograd's own runtime on tensors without data, with the kernels left out. Buffers therefore live exactly as long as
in a real run.

    moving.py   moves graphs to the modelled GPU before they are partitioned and lowered
    plan.py     a graph's wrapper code, and the names of its buffers
    wrapper.py  runs that code without kernels
    flex.py     the work of flex_attention in a plan
    places.py   maps a graph's stack traces to the user's lines
    watching.py the watcher, which knows the buffer that each allocation makes
    summary.py  the graphs in words
    compiler.py the replacements in PyTorch's compiler
    errors.py   the compiler's errors in one sentence
    formulas.py formulas of plans
    run.py      one traced run
"""

from memmodel.tracer.compiled.summary import Graphs
from memmodel.tracer.private.chip import Chip

__all__ = ["Chip", "Graphs"]

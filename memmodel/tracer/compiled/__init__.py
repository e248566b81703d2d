"""Traces of `torch.compile`d code: dynamo, AOTAutograd and Inductor run for real, up to the kernels.

The code that Inductor generates for a graph (its wrapper: allocations, kernel calls, reuses, deletions) runs inside
AOTAutograd's own runtime on tensors without data, with the kernels left out. So buffers live exactly as long as
PyTorch's own code lets them.

    moving.py   graphs moved to that GPU before they are partitioned and lowered
    plan.py     a graph's wrapper code, and what its buffers are called
    wrapper.py  runs it without kernels
    flex.py     the work of flex_attention in a plan
    places.py   from a graph's stack traces to the user's lines
    watching.py the watcher that knows which buffer is born
    summary.py  what to say about the graphs
    compiler.py what is replaced in PyTorch's compiler
    told.py     its errors in one sentence
    letters.py  formulas of plans
    run.py      one traced run
"""

from memmodel.tracer.compiled.summary import Graphs
from memmodel.tracer.private.chip import Chip

__all__ = ["Chip", "Graphs"]

"""The work of flex_attention's kernels in a plan, by the rule that eager code and `predict` read."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.rules import flex
from memmodel.rules.operator import Call
from memmodel.tracer.compiled.plan import Buffer
from memmodel.tracer.operators import Traced
from memmodel.tracer.private.dispatch import tensors_in, tree_map
from memmodel.tracer.private.flex import FLEX_ATTENTION, FLEX_ATTENTION_BACKWARD

if TYPE_CHECKING:
    from memmodel.tracer.compiled.watching import PlanWatcher

_TEMPLATE = "triton_tem"  # how names of kernels from Inductor's templates begin
_RULES = {FLEX_ATTENTION: flex.forward, FLEX_ATTENTION_BACKWARD: flex.backward}


def attention_of(kernel: str, written: Buffer | None) -> Any:
    """The node of flex_attention that a kernel of this name computes into its last argument; None for none."""
    if not kernel.startswith(_TEMPLATE) or written is None:
        return None
    return next((node for node in written.nodes if node.target in _RULES), None)


def attention_work(node: Any, watcher: "PlanWatcher") -> tuple[Work, Work]:
    """The work of the kernel of a node, and what of it the results need."""
    args = [_values(x) for x in node.args]
    place = next(i for i, x in enumerate(node.args) if isinstance(x, tuple | list))  # of the block mask
    mask, captured = getattr(node.graph.owning_module, node.args[place][-1].target), args[-1]

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen: Tensor = mask(batch, head, query, key, *captured)
        return seen

    q, k = args[:2]
    visited = watcher.masks.visits(q, k, (*args[place][:-1], sees))
    operands = (args[5], *args[:5]) if node.target is FLEX_ATTENTION_BACKWARD else args[:3]
    given = [Traced(x) for x in (*operands, *tensors_in(args[place:]))]
    results = [Traced(x) for x in tensors_in(node.meta["val"])]
    steps = _RULES[node.target](Call("", given, {"visited": visited}, results, watcher.device))
    kernel = max((step for step in steps if isinstance(step, Launch)), key=lambda launch: launch.work.matmul)
    return kernel.work, kernel.least


def _values(x: Any) -> Any:
    return tree_map(lambda y: y.meta.get("val") if isinstance(y, torch.fx.Node) else y, x)

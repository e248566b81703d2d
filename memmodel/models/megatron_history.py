"""What a rank of Megatron-LM allocates before the step that is recorded, which decides what the allocator reserves.

Parameters are made one by one, then move into the flat buffer (megatron/core/distributed/param_and_grad_buffer.py). The
optimizer works on this rank's range of that buffer, in pieces that end where parameters do: masters are made with it
(optimizer/distrib_optimizer.py, _build_model_and_main_param_groups), Adam's moments by its first step, in memory that
the activations before it have left (TransformerEngine's pytorch/optimizers/fused_adam.py, initialize_state).
"""

from collections.abc import Iterator
from itertools import chain, count

from memmodel.base.dtypes import DType, float32
from memmodel.events.groups import OPTIMIZER
from memmodel.events.program import STATE, Alloc, Event, Free, Mark, Program
from memmodel.models.architecture import Weight
from memmodel.models.megatron import ALIGNED, TOTALS, VALUES, of_experts, padded, peers_of, weights_of
from memmodel.models.setting import ModelCase
from memmodel.sizes.dims import ceil_div


def with_history(program: Program, case: ModelCase) -> Program:
    """The program of a recorded step, with the events before it as they are in a real run."""
    start = next(i for i, event in enumerate(program.events) if isinstance(event, Mark) and event.phase == "forward")
    mark, *before = program.events[:start]
    flat = [e for e in before if isinstance(e, Alloc) and program.names.get(e.key) in (VALUES, TOTALS)]
    groups = {key: group for key, group in program.groups.items() if group != OPTIMIZER}
    replaced = {event.key for event in flat} | (program.groups.keys() - groups.keys())
    rest = [event for event in before if getattr(event, "key", None) not in replaced]
    made = _Made(case, count(1 + max(birth.key for birth in program.births())))
    parameters = made.parameters() if case.layout.shares_optimizer else []
    moved = [Free(parameter.key) for parameter in parameters]
    masters, moments = list(made.masters()), made.moments()
    groups |= {event.key: OPTIMIZER for event in (*masters, *moments) if isinstance(event, Alloc)}
    events = [mark, *parameters, *flat, *moved, *masters, *rest, *moments, *program.events[start:]]
    return program._replace(events=events, groups=groups)


class _Made:
    """What a rank makes; `keys` are those of its storages."""

    def __init__(self, case: ModelCase, keys: Iterator[int]) -> None:
        self.case, self.keys = case, keys
        outer, layers = weights_of(case)
        first = [weight for weight in outer if weight.name.startswith(("embedding", "positions"))]
        last = [weight for weight in outer if weight not in first]
        weights = [*first, *chain.from_iterable(layers), *last]
        self.sizes = [size for weight in weights for size in _each(weight)]  # elements, in the order of modules
        # The dense ones and the experts have a buffer each.
        parts = (
            [size for weight in weights if of_experts(weight) is of for size in _each(weight)] for of in (False, True)
        )
        self.pieces = [
            size for part, peers in zip(parts, peers_of(case), strict=True) for size in self._pieces(part, peers)
        ]

    def _pieces(self, sizes: list[int], peers: tuple[int, ...]) -> Iterator[int]:
        """Elements of the parameters in this rank's range of a buffer, which has them in reverse."""
        if not self.case.layout.shares_optimizer:
            yield from sizes
            return
        own = padded(sizes, len(peers), aligned=True) // len(peers)
        low, at = own * peers.index(self.case.layout.number(self.case.rank)), 0
        for size in reversed(sizes):
            start, end = max(at, low), min(at + size, low + own)
            if start < end:
                yield end - start
            at = ceil_div(at + size, ALIGNED) * ALIGNED

    def parameters(self) -> list[Alloc]:
        """Each parameter, as its module makes it."""
        return [self._alloc(size, self.case.dtype) for size in self.sizes]

    def masters(self) -> Iterator[Event]:
        """Copies in fp32, of copies in the parameters' dtype."""
        for size in self.pieces:
            copy = self._alloc(size, self.case.dtype)
            yield from (copy, self._alloc(size, float32), Free(copy.key))

    def moments(self) -> list[Alloc]:
        """Both of Adam's, of one piece after the other."""
        return [self._alloc(size, float32, STATE) for size in self.pieces for _ in ("exp_avg", "exp_avg_sq")]

    def _alloc(self, size: int, dtype: DType, role: str = "tensor") -> Alloc:
        return Alloc(next(self.keys), size * dtype.itemsize, (size,), dtype, "empty", None, role)


def _each(weight: Weight) -> list[int]:
    """Elements of a weight, or of each expert's, which is a parameter of its own."""
    experts = int(weight.shape[0]) if of_experts(weight) else 1
    return [int(weight.numel) // experts] * experts

"""Experts that ranks share: each has some of them, and tokens go to the ranks of theirs and come back.

After Megatron-LM (megatron/core/transformer/moe/token_dispatcher.py, MoEAlltoAllTokenDispatcher): the host learns how
many rows go to each expert, an all-to-all carries them, and pieces are put in the order of experts (GShard, Lepikhin et
al., 2020, arXiv 2006.16668).
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from memmodel_kernels.namespace import namespace
from memmodel_kernels.parallel.group import Group


class ExpertParallel(NamedTuple):
    """Ranks that share experts: rank r of them has neighbouring ones, from r · experts / ranks on."""

    group: Group

    def run(self, rows: Any, counts: Any, products: Callable[[Any, Any], Any]) -> Any:
        """The results of rows (in the order of all experts) by the experts of all ranks.

        `counts`: how many rows go to each expert. `products`: of rows in the order of this rank's experts, with the end
        of each one's, the results.
        """
        ranks, experts = self.group.size, counts.shape[0] // self.group.size
        coming = counts.new_empty(counts.shape)
        # Sizes first: the host needs them to make room for what comes.
        namespace(rows).distributed.all_to_all_single(coming, counts, group=self.group.handle)
        sent, received = (_on_host(x, rows.shape[0]) for x in (counts, coming))
        splits = [sum(of[rank * experts : (rank + 1) * experts]) for of in (received, sent) for rank in range(ranks)]
        there, back = tuple(splits[:ranks]), tuple(splits[ranks:])
        here = self._exchanged(rows, there, back)
        by_expert = [rank * experts + expert for expert in range(experts) for rank in range(ranks)]
        # Of each own expert, over the ranks that send to it.
        ends = coming.view(ranks, experts).sum(0).cumsum(0, dtype=namespace(rows).int32)
        here = _in_order(here, received, by_expert)
        out = products(here, ends)
        del here
        # The inverse permutation.
        by_rank = sorted(range(len(by_expert)), key=by_expert.__getitem__)
        out = _in_order(out, [received[piece] for piece in by_expert], by_rank)
        return self._exchanged(out, back, there)

    def _exchanged(self, rows: Any, received: Sequence[int], sent: Sequence[int]) -> Any:
        """The rows that come from the ranks, for those that go to them; `received` and `sent` count them by rank."""
        return _function(namespace(rows)).apply(rows, received, sent, self.group)


def _on_host(counts: Any, rows: Any) -> list[int]:
    """Counts as numbers; of tensors without data, the rows are spread evenly."""
    if namespace(counts).__name__ == "torch":
        return [int(count) for count in counts.tolist()]
    every = counts.shape[0]
    return [end - start for start, end in pairwise(rows * piece // every for piece in range(every + 1))]


def _in_order(rows: Any, sizes: Sequence[int], order: Sequence[int]) -> Any:
    """Pieces of these sizes in another order; the rows themselves where that is the same."""
    if list(order) == sorted(order):
        return rows
    pieces = rows.split(list(sizes))
    return namespace(rows).cat([pieces[piece] for piece in order])


@cache
def _function(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class Exchanged(base):  # type: ignore[misc]
        """An all-to-all of rows, whose gradients go back the same way."""

        @staticmethod
        def forward(ctx: Any, x: Any, received: Any, sent: Any, group: Group) -> Any:
            ctx.splits = received, sent
            ctx.group = group
            return _passed(x, received, sent, group)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            received, sent = ctx.splits
            return _passed(grad, sent, received, ctx.group), None, None, None

    return Exchanged


def _passed(x: Any, received: Sequence[int], sent: Sequence[int], group: Group) -> Any:
    # of recording tensors, as many come as go: a size keeps its letter
    count = sum(received) if namespace(x).__name__ == "torch" else x.shape[0]
    out = x.new_empty(count, *x.shape[1:])
    namespace(x).distributed.all_to_all_single(out, x.contiguous(), list(received), list(sent), group=group.handle)
    return out

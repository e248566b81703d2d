"""The graphs that torch.compile made of a function, and the graph breaks between them."""

from typing import NamedTuple

import torch

_MOST_REASONS = 3
NOT_PLANNED = (
    "not planned, as they are timed on the GPU: padded matrix products, autotuned templates, the first call's "
    "autotuning; CUDA graphs are off"
)


class Graph(NamedTuple):
    """One graph: "forward", "backward" or "inference"; its fused kernels, library calls, and buffers by their fate."""

    kind: str
    kernels: int
    calls: int
    buffers: int
    reused: int


class Graphs(NamedTuple):
    """All graphs in the order of compilation.

    Attributes:
        graphs: the graphs. breaks: why dynamo broke the code between them.
        fused_attention: whether Inductor found attention in them and replaced it by scaled_dot_product_attention.
    """

    graphs: tuple[Graph, ...]
    breaks: tuple[str, ...]
    fused_attention: bool

    def notes(self) -> list[str]:
        """Notes of a trace of them."""
        kinds = [graph.kind for graph in self.graphs]
        counted = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
        version = torch.__version__.partition("+")[0]
        planned = f"saved tensors and buffers as torch {version} partitions and plans them for this GPU: "
        broken = f"; {len(self.breaks)} graph breaks, eager between them" if self.breaks else ", no graph breaks"
        shown = [f"graph break: {reason}" for reason in self.breaks[:_MOST_REASONS]]
        if self.fused_attention:
            shown.append("Inductor replaced attention by scaled_dot_product_attention; its buffers have no lines")
        return [f"{planned}graphs: {counted}{broken}", *shown, NOT_PLANNED]

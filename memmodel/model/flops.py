"""The FLOP of a model's step: what its weights and attention scores need, however the step is computed.

Source: Chowdhery et al. 2022 (PaLM), appendix B: 6 FLOP for each weight that a token meets and 12 for each score and
channel, a third of both in forward. Keys that a window hides are left out; those after the query are counted, as there.
"""

from memmodel.dims import Dim, minimum
from memmodel.model.architecture import Architecture, active_parameters


def forward_flops(arch: Architecture, batch: Dim, queries: Dim, keys: Dim) -> Dim:
    """FLOP of one forward: `queries` new tokens of each sequence against `keys` of it."""
    return batch * queries * (2 * matrix_parameters(arch) + _of_scores(arch, keys))


def matrix_parameters(arch: Architecture) -> Dim:
    """The parameters of matrices that a token is multiplied by: all that it meets but the embedding's rows."""
    table = 0 if arch.tied else arch.vocab * arch.hidden  # a tied table is the head's matrix too
    positions = arch.max_pos * arch.hidden if arch.positions == "learned" else 0
    return active_parameters(arch) - table - positions


def _of_scores(arch: Architecture, keys: Dim) -> Dim:
    """FLOP of a query's scores and weighted values in all layers."""
    seen = [minimum(keys, arch.window) if kind.attention != "F" else keys for kind in arch.kinds()]
    return 2 * arch.heads * (arch.head_dim + arch.value_dim) * sum(seen, start=0)

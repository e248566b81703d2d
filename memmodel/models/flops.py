"""The FLOP of a model's step: what its weights and attention scores need, however the step is computed.

Source: Chowdhery et al. 2022 (PaLM), appendix B: 6 FLOP for each weight that a token meets and 12 for each score and
channel, a third of both in forward. Unlike there, only keys that the mask lets a query see are counted.
"""

from memmodel.attention.masks import Mask
from memmodel.models.architecture import Architecture, active_parameters
from memmodel.sizes.dims import Dim


def forward_flops(arch: Architecture, batch: Dim, queries: Dim, keys: Dim) -> Dim:
    """FLOP of one forward: `queries` new tokens of each sequence against `keys` of it."""
    head = arch.vocab * arch.hidden if arch.patches else 0  # of the one token of the image's class
    of_matrices = queries * (matrix_parameters(arch) - head) + head
    return batch * (2 * of_matrices + _of_scores(arch, queries, keys))


def matrix_parameters(arch: Architecture) -> Dim:
    """The parameters of matrices that a token is multiplied by: all that it meets but the embedding's rows."""
    no_table = arch.tied or arch.patches  # a tied table is the head's matrix too
    table = 0 if no_table else arch.vocab * arch.hidden
    positions = arch.max_pos + arch.padded if arch.positions == "learned" else 0
    return active_parameters(arch) - table - (positions + arch.segments) * arch.hidden


def _of_scores(arch: Architecture, queries: Dim, keys: Dim) -> Dim:
    """FLOP of the scores and weighted values of one sequence in all layers."""
    windowed, full = (Mask(arch.causal, window).pairs(queries, keys) for window in (arch.window or None, None))
    with_window = sum(kind.attention != "F" for kind in arch.kinds())  # a chunk is taken as a window
    pairs = with_window * windowed + (arch.layers - with_window) * full
    return 2 * arch.heads * (arch.head_dim + arch.value_dim) * pairs

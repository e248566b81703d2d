"""The FLOP of a model's step: what its weights and attention scores need, however the step is computed.

Source: Chowdhery et al. 2022 (PaLM), appendix B: 6 FLOP for each weight that a token meets and 12 for each score and
channel, a third of both in forward. Unlike there, only keys that the mask lets a query see are counted.
"""

from memmodel.attention.masks import Mask
from memmodel.models.architecture import Architecture, active_parameters
from memmodel.sizes.dims import Dim, minimum


def forward_flops(arch: Architecture, batch: Dim, queries: Dim, keys: Dim, read: Dim = 0, seen: Dim = 0) -> Dim:
    """FLOP of one forward: `queries` new tokens of each sequence against `keys` of it.

    An encoder before a decoder reads `read` tokens, of which the decoder sees `seen`: those of its cache too.
    """
    if arch.encoder:
        return _with_encoder(arch, arch.encoder, batch, queries, keys, read, seen)
    head = arch.vocab * arch.hidden if arch.patches else 0  # of the one token of the image's class
    of_matrices = queries * (matrix_parameters(arch) - head) + head
    return batch * (2 * of_matrices + _of_scores(arch, queries, keys))


def _with_encoder(
    arch: Architecture, encoder: Architecture, batch: Dim, queries: Dim, keys: Dim, read: Dim, seen: Dim
) -> Dim:
    # Keys and values of the second attention are of the encoder's tokens, and its scores are all of them.
    of_source = arch.layers * arch.hidden * arch.kv_heads * (arch.head_dim + arch.value_dim)
    of_tokens = matrix_parameters(arch) - matrix_parameters(encoder) - of_source
    scores = _of_scores(arch, queries, keys) + 2 * arch.layers * arch.heads * (arch.head_dim + arch.value_dim) * (
        queries * seen
    )
    decoder = batch * (2 * (queries * of_tokens + read * of_source) + scores)
    return decoder + forward_flops(encoder, batch, read, read)


def matrix_parameters(arch: Architecture) -> Dim:
    """The parameters of matrices that a token is multiplied by: all that it meets but the embedding's rows.

    Whisper's convolutions are among them, though the first is at two moments a token.
    """
    return active_parameters(arch) - _tables(arch)


def _tables(arch: Architecture) -> Dim:
    """The parameters of which a token looks up a row."""
    no_table = arch.tied or arch.patches  # a tied table is the head's matrix too
    table = 0 if no_table else arch.vocab * arch.hidden
    positions = arch.max_pos + arch.padded if arch.positions == "learned" else 0
    own = table + (positions + arch.segments) * arch.hidden + arch.buckets * arch.heads
    return own + (_tables(arch.encoder) if arch.encoder else 0)


def _of_scores(arch: Architecture, queries: Dim, keys: Dim) -> Dim:
    """FLOP of the scores and weighted values of one sequence in all layers."""
    windowed, full = (_pairs(arch, window, queries, keys) for window in (arch.window or None, None))
    with_window = sum(kind.attention != "F" for kind in arch.kinds())  # a chunk is taken as a window
    pairs = with_window * windowed + (arch.layers - with_window) * full
    return 2 * arch.heads * (arch.head_dim + arch.value_dim) * pairs


def _pairs(arch: Architecture, window: Dim | None, queries: Dim, keys: Dim) -> Dim:
    """Query and key pairs that are seen; an encoder's window is on both sides of a token."""
    if arch.causal or window is None:
        return Mask(arch.causal, window).pairs(queries, keys)
    return 2 * Mask(True, minimum(window + 1, keys)).pairs(queries, keys) - queries

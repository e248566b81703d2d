"""Published flash kernels: their tiles, from their sources, which decide how much work each does.

Heights and widths are rows of queries by keys. A backward program owns keys.
"""

from typing import NamedTuple

from memmodel.attention.masks import Mask
from memmodel.attention.tiles import Tile
from memmodel.base.errors import UsageError
from memmodel_kernels.flash import FlashTiles

Tiles = dict[int, Tile]  # by head dim


class Implementation(NamedTuple):
    """A published kernel.

    Attributes:
        forward, causal: tiles without a mask, and under a causal one. backward: tiles of its backward.
        source: where the tiles are from.
    """

    forward: Tiles
    causal: Tiles
    backward: Tiles
    source: str

    def tiles(self, head_dim: int, mask: Mask) -> FlashTiles:
        """The tiles of a head dim. Raises UsageError for one without."""
        forward = (self.causal if mask.causal else self.forward).get(head_dim)
        if forward is None:
            raise UsageError(f"no tile is known for head dim {head_dim}")
        backward = self.backward.get(head_dim, forward)
        return FlashTiles(forward, backward, backward, backward)


_FA2 = {32: Tile(128, 128), 64: Tile(128, 128), 128: Tile(128, 64), 256: Tile(64, 64)}
_FA2_BACKWARD = {32: Tile(128, 128), 64: Tile(128, 128), 128: Tile(64, 128), 256: Tile(64, 64)}
_FA3 = {64: Tile(192, 192), 128: Tile(128, 176), 256: Tile(128, 80)}
_FA3_CAUSAL = {64: Tile(192, 128), 128: Tile(128, 128), 256: Tile(128, 80)}
_FA3_BACKWARD = {64: Tile(128, 128), 128: Tile(80, 128), 256: Tile(64, 80)}
_TRITON = {64: Tile(128, 64), 128: Tile(128, 64)}
_CUDNN = {64: Tile(128, 128), 128: Tile(128, 128), 256: Tile(128, 128)}
_CUDNN_BACKWARD = {64: Tile(64, 128), 128: Tile(64, 128), 256: Tile(64, 128)}

IMPLEMENTATIONS = {
    "FlashAttention-2": Implementation(
        _FA2, _FA2, _FA2_BACKWARD, "Dao-AILab/flash-attention, csrc/flash_attn/src/flash_{fwd,bwd}_launch_template.h"
    ),
    "FlashAttention-3": Implementation(
        _FA3, _FA3_CAUSAL, _FA3_BACKWARD, "Dao-AILab/flash-attention, hopper/tile_size.h, flash_bwd_launch_template.h"
    ),
    "Triton (nightly 2024)": Implementation(
        _TRITON, _TRITON, {}, "triton-lang/triton, python/tutorials/06-fused-attention.py"
    ),
    "cuDNN 9": Implementation(
        _CUDNN,
        _CUDNN,
        _CUDNN_BACKWARD,
        "NVIDIA/cudnn-frontend, generated/sdpa/sm90/prefill: two groups of 64 rows, 128 keys, head dims 64 and 128; "
        "profilers' kernel names: 64x128x128 (2024, meta-pytorch/tritonbench issue #41), 64x128x256; backward "
        "64x64x64 and 64x64x128, two groups of 64 keys (head dim 256 taken as 128)",
    ),
}

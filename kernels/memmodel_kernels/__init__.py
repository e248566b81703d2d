"""The attention algorithms, each written once, and the Triton kernels.

The algorithms are plain functions on (batch, heads, sequence, head dim) tensors. They run on `torch` tensors, to be
measured, and on `memmodel.recording` tensors, to be predicted. Importing this package imports neither torch nor triton.
"""

from memmodel_kernels.checkpointed import checkpointed
from memmodel_kernels.chunked import chunked
from memmodel_kernels.compiled import compiled
from memmodel_kernels.decode import decode
from memmodel_kernels.decode_eager import decode_eager
from memmodel_kernels.flash import flash
from memmodel_kernels.flash_attention import flash_attention, flash_attention_varlen
from memmodel_kernels.naive import naive, naive_by_hand

__all__ = [
    "checkpointed",
    "chunked",
    "compiled",
    "decode",
    "decode_eager",
    "flash",
    "flash_attention",
    "flash_attention_varlen",
    "naive",
    "naive_by_hand",
]

"""FlashMLA on recording tensors: decoding over a cache of latents, from which no keys and values are made.

Latent attention multiplies the matrices that would make keys and values into the queries and the output instead
(absorbed). Keys of all heads are then the cache's rows, a latent and its rotary channels; values are the latents.
Source: deepseek-ai/FlashMLA at 287061e, csrc/flash_api.cpp (get_mla_metadata, mha_fwd_kvcache_mla).
"""

from typing import Any

from memmodel.attention.masks import Mask
from memmodel.base.device import Device
from memmodel.base.dtypes import bfloat16, float16, float32
from memmodel.base.errors import UsageError
from memmodel.rules.dispatch import several
from memmodel.rules.operator import RESULTS, Call, Scratch, Spec, Steps, kernel, makes, rule
from memmodel.sizes.dims import Dim, ceil_div, maximum
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor

KEY_DIM, VALUE_DIM, PAGE = 576, 512, 64  # what its kernels are compiled for
_ROWS = 64  # of a tile: heads and new tokens
_OP = "flash_mla"


def partitions(device: Device, rows: Dim) -> Dim:
    """Parts of the SMs that sequences are shared out to (num_sm_parts); `rows`: heads times new tokens."""
    return maximum(device.sms // ceil_div(rows, _ROWS), 1)


@makes(_OP)
def _made(q: Strided, *_: Any, **__: Any) -> list[Spec]:
    """The output (b, n, h, 512), and its log-sum-exp."""
    b, n, h, _d = q.shape
    return [Spec((b, n, h, VALUE_DIM), q.dtype), Spec((b, h, n), float32)]


@rule(_OP)
def forward(call: Call) -> Steps:
    """One kernel by parts of the keys, and one that adds these up; a part more for each sequence."""
    q, cache, *others = call.args
    mask, keys = call.named["mask"], call.named["keys"]
    b, n, h, d = q.shape
    yield RESULTS
    parts = b + partitions(call.device, h * n)
    yield Scratch((parts, h * n), float32, "log-sum-exp of each part")
    yield Scratch((parts, h * n, VALUE_DIM), float32, "output of each part")
    pairs = b * h * mask.pairs(n, keys)
    seen = Strided((b, mask.keys(n, keys), 1, d), cache.dtype)  # of the pages, the rows inside the mask
    matmul = 2 * pairs * (d + VALUE_DIM)
    yield kernel(_OP, (q, seen, *others), call.results, q.dtype, matmul=matmul, exp=pairs, kind="fused")


def flash_mla_with_kvcache(
    q: Tensor, k_cache: Tensor, block_table: Tensor, metadata: Tensor, num_splits: Tensor, keys: Dim, mask: Mask
) -> Tensor:
    """`flash_mla.flash_mla_with_kvcache`: q (b, n, h, 576) on pages (p, 64, 1, 576); returns (b, n, h, 512).

    `keys`: of each sequence, the newest included. Raises UsageError for what the package refuses.
    """
    device = q.storage.tape.device
    if device.capability // 10 not in (9, 10):
        raise UsageError("flash-mla has kernels for Hopper and data-centre Blackwell alone: take --gpu H100 or B200")
    if q.dtype not in (float16, bfloat16):
        raise UsageError(f"flash-mla takes fp16 and bf16, not {q.dtype}")
    options = {"mask": mask, "keys": keys}
    return several(_OP, q, k_cache, block_table, metadata, num_splits, label=("output", "log-sum-exp"), **options)[0]

"""Serving stacks: which attention kernel each runs on which GPU, and which of its kernels takes a decoding call.

A dispatch rule is a fact of a stack's code. It says here whether a call is taken by the kernel for single heads, which
gives a program to every query head, or by the one that packs the query heads of a kv head into a tile.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from memmodel.attention.case import Case
from memmodel.sizes.dims import maximum
from memmodel.timing.serving.chip import Chip

Truth = Any  # a bool, or an array of them


def _group(case: Case) -> Any:
    return case.heads // case.kv_heads


def _never(case: Case, chip: Chip) -> Truth:
    return _group(case) < 1  # not `False`: of a table it is an array


def _one_head(case: Case, chip: Chip) -> Truth:
    return _group(case) == 1


def _below_four(case: Case, chip: Chip) -> Truth:
    return _group(case) < 4


def _above_32(case: Case, chip: Chip) -> Truth:
    return _group(case) > 32


def _masked_attention(case: Case, chip: Chip) -> Truth:
    # kEnableMinBlockFactor and kMinHistoryTokensPerBlock: 4 blocks an SM, of 128 tokens of the cache.
    few = 4 * case.batch * case.kv_heads * maximum(1, case.kv_seq // 128) < chip.sms
    return _one_head(case, chip) | _above_32(case, chip) | few


class Rule(NamedTuple):
    """Which decoding calls the kernel for single heads takes, and the source of that."""

    single: Callable[[Case, Chip], Truth]
    source: str


_FA2 = Rule(_one_head, "Dao-AILab/flash-attention, csrc/flash_attn/flash_api.cpp: seqlenq_ngroups_swapped")
_FA3 = Rule(_never, "Dao-AILab/flash-attention, hopper/flash_api.cpp: heads of a group are packed")
_GEN = Rule(_never, "flashinfer, trtllm-gen: heads of a group are packed")
_CUDA_CORES = Rule(_below_four, "SGLang, flashinfer_backend.py: should_use_tensor_core")
_TRITON = Rule(_one_head, "SGLang, triton_ops/decode_attention.py: a kernel of its own where a group is one head")
_XQA = Rule(_masked_attention, "TensorRT-LLM, decoderXQAImplJIT.cpp: mayHavePerfGain")
_GEN_OR_MMHA = Rule(_above_32, "TensorRT-LLM: trtllm-gen up to groups of 32")

_DATA_CENTRE = ("blackwell_dc", "blackwell_ultra")
RULES: dict[str, dict[str, Rule]] = {  # kernel -> architecture (or "") -> rule
    "vllm-fa2": {"": _FA2},
    "vllm-fa3": {"": _FA3},
    "vllm-flashinfer": {"": _GEN},
    "vllm-trtllm-gen": {"": _GEN},
    "sglang-fa3": {"": _FA3},
    "sglang-flashinfer": {"": _CUDA_CORES},
    "sglang-trtllm-gen": {"": _GEN},
    "sglang-triton": {"": _TRITON},
    "tensorrt-llm": {"": _XQA, **dict.fromkeys(_DATA_CENTRE, _GEN_OR_MMHA)},
}
VALUES_OF_192 = 128  # SGLang runs head dim 192 with values of 128 (MiMo); inferred from its times on H100, L40S


def rule_of(kernel: str, arch: str) -> Rule:
    """The dispatch of a stack on an architecture."""
    rules = RULES[kernel]
    return rules.get(arch, rules[""])

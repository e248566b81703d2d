"""Peaks of Megatron-LM's own tests beside the model's: `python -m memmodel_evidence.golden [FILE]`.

A row is a golden value of NVIDIA/Megatron-LM, tests/functional_tests: the arguments of a run, and the most bytes that
its last rank allocated, of the last pipeline stage. Its columns are named after the arguments; so are those of a FILE
to judge in place of the rows here. Nothing is fitted to them.
"""

import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.allocator.cublas import Workspace, workspace
from memmodel.base.errors import UsageError
from memmodel.events.replay import replay
from memmodel.gpus import Gpu, load_gpu
from memmodel.models.architecture import Architecture, Mixture
from memmodel.models.choices import model_case
from memmodel.models.layout import Rank
from memmodel.models.megatron import FLASH
from memmodel.models.program import program_of
from memmodel.models.setting import EAGER, SDPA, ModelCase
from memmodel.step import STEPS, device_of, room_bytes
from memmodel_evidence.records import DATA

Row = Mapping[str, str]
TORCH = "2.10"  # of NVIDIA's containers of early 2026; workspaces did not change in those before
GPUS = {"a100": "A100", "h100": "H100", "gb200": "GB200"}
CONFIGURED = Workspace(32 * 2**20, per_call=False)  # CUBLAS_WORKSPACE_CONFIG=:4096:8, eight buffers of 4 MiB
# Containers of these platforms have TransformerEngine without deterministic fused attention.
UNFUSED_IF_DETERMINISTIC = ("dracooci",)
VOCABULARY = {"": 50257, "GPT2BPETokenizer": 50257, "GPTSentencePieceTokenizer": 256000}


class Judged(NamedTuple):
    """A row's peak in bytes as measured, and the model's."""

    row: Row
    measured: float
    predicted: int

    @property
    def off(self) -> float:
        """Predicted over measured, less one, in per cent."""
        return 100 * (self.predicted / self.measured - 1)


def rows(path: Path | None = None) -> list[Row]:
    """Every row that has a peak; an argument that it does not give is ""."""
    with (path or DATA / "steps" / "megatron_golden.csv").open() as file:
        return [defaultdict(str, row) for row in csv.DictReader(file) if row["mem_max_last"]]


def judged(row: Row) -> Judged:
    """A row beside the model. Raises UsageError where it is not modelled."""
    for reason in not_modelled(row):
        raise UsageError(reason)
    gpu = gpu_of(row)
    return Judged(row, float(row["mem_max_last"]), _peak(case_of(row, gpu), gpu, _workspace(row, gpu), _config(row)))


def not_modelled(row: Row) -> Iterator[str]:
    """The kinds of a row that the account of Megatron-LM does not hold."""
    family, others = row["path"].split("/")[3], _others(row)
    kinds = {
        "other architectures: bert": family == "bert",
        "other architectures: t5": family == "t5",
        "other architectures: images beside text": family.startswith(("multimodal", "mimo")),
        "state-space layers": bool(row["hybrid-layer-pattern"] or row["hybrid-override-pattern"]),
        "fp8": bool(row["fp8-format"]),
        "CUDA graphs": row["cuda-graph-impl"] not in ("", "none") or bool(row["external-cuda-graph"]),
        "Megatron FSDP": _given(row, "use-megatron-fsdp"),
        "PyTorch FSDP": _given(row, "use-torch-fsdp2"),
        "optimizers of whole matrices": row["optimizer"] == "muon",
        "latent attention": _given(row, "multi-latent-attention"),
        "reinforcement learning": "grpo" in row["path"],
        "a number of GPUs that is not stated": "_release" in row["path"],
        "distillation": "modelopt" in row["path"],
        "softmax in several kernels": bool(others.get("no-masked-softmax-fusion")),
        "stages of unequal layers": bool(
            {
                "decoder-first-pipeline-num-layers",
                "decoder-last-pipeline-num-layers",
                "pipeline-model-parallel-layout",
                "account-for-embedding-in-pipeline-split",
                "account-for-loss-in-pipeline-split",
            }
            & set(others)
        ),
    }
    yield from (words for words, given in kinds.items() if given)


def gpu_of(row: Row) -> Gpu:
    """The GPU of a row's platform; before Hopper tests ran on an A100 alone."""
    return load_gpu(next((name for word, name in GPUS.items() if word in row["platform"]), "A100"))


def case_of(row: Row, gpu: Gpu) -> ModelCase:
    """The case of a row's last rank."""
    sizes = {name: _size(row, f"{words}-parallel-size", 1) for name, words in _PARALLEL.items()}
    world = 4 if row["path"].split("/")[4].endswith("_1node") else 8
    data = world // (sizes["tp"] * sizes["pp"] * sizes["cp"])
    shared, others = _given(row, "use-distributed-optimizer"), _others(row)
    arch = _architecture(row)
    virtual = _size(row, "num-virtual-stages-per-pipeline-rank", 1)
    if row["num-layers-per-virtual-pipeline-stage"]:
        virtual = arch.layers // sizes["pp"] // _size(row, "num-layers-per-virtual-pipeline-stage", 1)
    instances = int(others.get("num-distributed-optimizer-instances", 1))
    micro = _size(row, "global-batch-size", 0) // (_size(row, "micro-batch-size", 1) * data) or sizes["pp"]
    waits = others.get("wgrad-deferral-limit") or micro
    given: dict[str, Any] = {
        **sizes,
        "dp": data if not shared else instances,
        "dp_shard": data // instances if shared else 1,
        "zero": 1 if shared else 0,
        "schedule": "interleaved" if virtual > 1 else "1f1b",
        "virtual_stages": virtual,
        "microbatches": micro,
        "sequence_parallel": _given(row, "sequence-parallel") and sizes["tp"] > 1,
        "microbatch_group": others.get("microbatch-group-size-per-virtual-pipeline-stage"),
        "deferred": waits if others.get("defer-embedding-wgrad-compute") else None,
    }
    if row["num-experts"]:
        given |= {
            "etp": _size(row, "expert-tensor-parallel-size", sizes["tp"]),
            "dispatcher": row["moe-token-dispatcher-type"] or "allgather",
            "sequential_experts": not _given(row, "moe-grouped-gemm"),
        }  # fmt: skip
    case = model_case(
        arch, framework="megatron", seq=_size(row, "seq-length", 1024), batch=_size(row, "micro-batch-size", 1),
        dtype="fp16" if _given(row, "fp16") else "bf16", attention=_attention(row, gpu), torch=TORCH,
        loss="native" if _given(row, "cross-entropy-loss-fusion") else "full",
        dropout=_dropout(row, "hidden"), attention_dropout=_dropout(row, "attention"),
        checkpoint="block" if row["recompute-granularity"] == "full" else "none",
        local_modules=row["transformer-impl"] == "local",
        separate_gradients=_given(row, "no-gradient-accumulation-fusion"), attention_mask=True, **given,
    )  # fmt: skip
    return replace(case, rank=Rank(stage=sizes["pp"] - 1), device=device_of(gpu))


_PARALLEL = {"tp": "tensor-model", "pp": "pipeline-model", "cp": "context", "ep": "expert-model"}


def _architecture(row: Row) -> Architecture:
    hidden, heads = _size(row, "hidden-size", 0), _size(row, "num-attention-heads", 0)
    width = _size(row, "kv-channels", hidden // heads)
    gated = _given(row, "swiglu")
    usual = int(4 * hidden * 2 / 3) // 64 * 64 if gated else 4 * hidden  # megatron/training/arguments.py
    groups = _size(row, "num-query-groups", 1) if _given(row, "group-query-attention") else heads
    biased = not _given(row, "disable-bias-linear")
    return Architecture(
        name=row["path"].split("/")[4], vocab=_vocabulary(row), layers=_size(row, "num-layers", 0), hidden=hidden,
        ffn=_size(row, "ffn-hidden-size", usual), heads=heads, kv_heads=groups, head_dim=width, value_dim=width,
        moe=_mixture(row, usual), qk_norm="head" if _others(row).get("qk-layernorm") else "none",
        tied=not _given(row, "untie-embeddings-and-output-weights"), qkv_bias=biased, output_bias=biased,
        ffn_bias=biased, norm="rmsnorm" if row["normalization"] == "RMSNorm" else "layernorm",
        activation="silu-glu" if gated else "gelu", max_pos=_size(row, "max-position-embeddings", 0),
        positions="rotary" if row["position-embedding-type"] == "rope" else "learned",
    )  # fmt: skip


def _mixture(row: Row, ffn: int) -> Mixture | None:
    """The router's results are in the model's dtype, unless `--moe-router-dtype fp32`."""
    if not row["num-experts"]:
        return None
    in_fp32 = _others(row).get("moe-router-dtype") == "fp32"
    return Mixture(
        _size(row, "num-experts", 0), _size(row, "moe-router-topk", 2),
        _size(row, "moe-ffn-hidden-size", _size(row, "ffn-hidden-size", ffn)),
        shared=_size(row, "moe-shared-expert-intermediate-size", 0), scores="softmax-as-is" if in_fp32 else "softmax",
    )  # fmt: skip


def _vocabulary(row: Row) -> int:
    """Of the tokenizer; a null tokenizer's has a row more than was asked for."""
    if row["vocab-size"]:
        return int(row["vocab-size"]) + (row["tokenizer-type"] == "NullTokenizer")
    if row["tokenizer-type"] not in VOCABULARY:
        raise UsageError(f"a vocabulary of unknown size: {row['tokenizer-type']}")
    return VOCABULARY[row["tokenizer-type"]]


def _attention(row: Row, gpu: Gpu) -> str:
    """Unfused in Megatron's own modules, where that was asked for, and in old containers; else as TransformerEngine.

    That has no deterministic backward with dropout by cuDNN on Blackwell (common/fused_attn/fused_attn.cpp), and takes
    FlashAttention's there.
    """
    deterministic = json.loads(row["env"] or "{}").get("NVTE_ALLOW_NONDETERMINISTIC_ALGO") == 0
    old = any(name in row["platform"] for name in UNFUSED_IF_DETERMINISTIC)
    if row["transformer-impl"] == "local" or row["attention-backend"] == "unfused" or (old and deterministic):
        return EAGER
    blackwell = (gpu.compute_capability or (0, 0)) >= (10, 0)
    flash = row["attention-backend"] == "flash" or (blackwell and deterministic and _dropout(row, "attention") > 0)
    return FLASH if flash else SDPA


def _dropout(row: Row, where: str) -> float:
    return float(row[f"{where}-dropout"] or 0.1)


def _workspace(row: Row, gpu: Gpu) -> Workspace:
    configured = "CUBLAS_WORKSPACE_CONFIG" in json.loads(row["env"] or "{}")
    return CONFIGURED if configured else workspace(TORCH, gpu.compute_capability)


def _config(row: Row) -> AllocatorConfig:
    settings = json.loads(row["env"] or "{}").get("PYTORCH_CUDA_ALLOC_CONF", "")
    return AllocatorConfig(expandable_segments="expandable_segments:True" in settings)


@cache
def _peak(case: ModelCase, gpu: Gpu, scratch: Workspace, config: AllocatorConfig) -> int:
    found = replay(program_of(case), CachingAllocator(room_bytes(gpu), config), scratch, STEPS)
    return max(usage.allocated_peak for _, usage in found.phases)


def _size(row: Row, name: str, usual: int) -> int:
    return int(float(row[name])) if row.get(name) else usual


def _given(row: Row, name: str) -> bool:
    return row.get(name, "") not in ("", "False", "false")


def _others(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(row["other_args"] or "{}")
    return found


def main(path: str | None = None) -> None:
    """Print each row, the medians of absolute residuals, and what is not judged."""
    found, without = list[Judged](), Counter[str]()
    for row in rows(Path(path) if path else None):
        try:
            found.append(judged(row))
        except UsageError as refused:
            without[str(refused)] += 1
    for one in sorted(found, key=lambda one: (one.row["path"], one.row["platform"])):
        name = f"{one.row['path'].split('/')[4]} {one.row['platform']}"
        print(f"{name:110} {one.measured / 2**20:9.1f} {one.predicted / 2**20:9.1f} MiB {one.off:+7.2f} %")
    errors = sorted(abs(one.off) for one in found)
    inside = " ".join(f"{limit} %: {sum(e <= limit for e in errors)}" for limit in (1, 5, 10))
    print(f"\n{len(found)} rows: median of absolute residuals {median(errors):.2f} %, largest {errors[-1]:.1f} %")
    print(f"rows within {inside}")
    for reason, count in without.most_common():
        print(f"not judged: {count} rows: {reason}")


if __name__ == "__main__":
    main(*sys.argv[1:2])

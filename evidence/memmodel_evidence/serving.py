"""Measured times of serving stacks' attention kernels, as arrays, beside those expected.

data/kernels: package aiconfigurator-core 0.12.0 (Apache-2.0), systems/data: one call of attention in bf16, causal, with
what the stack does beside it. Prefill has new tokens alone; decoding has one, its keys are `isl` + `step`. Rows of one
shape that were measured twice count once.
"""

import csv
import gzip
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from memmodel.attention.case import Case
from memmodel.attention.masks import Mask
from memmodel.base.dtypes import bfloat16
from memmodel.gpus import Gpu, load_gpu
from memmodel.timing.serving.call import as_run
from memmodel.timing.serving.chip import chip_of
from memmodel.timing.serving.decode import decode_parts
from memmodel.timing.serving.kernels import ServingKernel
from memmodel.timing.serving.parts import Parts
from memmodel.timing.serving.prefill import prefill_parts
from memmodel.timing.serving.stacks import rule_of
from memmodel_evidence.records import DATA

SOURCE = "PyPI aiconfigurator-core 0.12.0, systems/data"
JUDGED = 30  # per cent of the shapes, by a hash of their sizes
FOLDS = 5  # of the other shapes, for intervals

GPUS = {
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000-blackwell",
}  # Intel's Arc B60 has no file in the database
_KERNELS = {
    ("VLLM", "vllm_flash_attn"): "vllm-fa2",
    ("VLLM", "vllm_flash_attn_fa2"): "vllm-fa2",
    ("VLLM", "vllm_flash_attn_fa3"): "vllm-fa3",
    ("VLLM", "vllm_flashinfer"): "vllm-flashinfer",
    ("VLLM", "vllm_flashinfer_trtllmprefill"): "vllm-trtllm-gen",
    ("VLLM", "vllm_flashinfer_trtllmdecode"): "vllm-trtllm-gen",
    ("SGLang", "flash_attention"): "sglang-fa3",
    ("SGLang", "fa3"): "sglang-fa3",
    ("SGLang", "flashinfer"): "sglang-flashinfer",
    ("SGLang", "trtllm_mha"): "sglang-trtllm-gen",
    ("SGLang", "triton"): "sglang-triton",
    ("TRTLLM", "torch_flow"): "tensorrt-llm",
}
_FILES = {"prefill": "aic_context_attention_perf_bf16.csv.gz", "decode": "aic_generation_attention_perf_bf16.csv.gz"}
SIZES = ("batch", "heads", "kv_heads", "seq", "kv_seq", "head_dim", "value_dim")
_SHAPE = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim")
_COLUMNS = ("gpu", "framework", "kernel_source", "version", "latency", *_SHAPE)


class Table(NamedTuple):
    """The rows of one kernel on one GPU, in one phase ("prefill" or "decode"), as arrays.

    Attributes:
        version: of the stack. case: its sizes are arrays. seconds: measured. bucket: 0 to 99, by a hash of the shape.
    """

    gpu: Gpu
    kernel: str
    phase: str
    version: str
    case: Case
    seconds: Any
    bucket: Any

    @property
    def judged(self) -> Any:
        """Rows whose shapes no constant is fitted to."""
        return self.bucket < JUDGED

    @property
    def single(self) -> Any:
        """Rows that the stack's kernel for single heads takes; none in prefill."""
        if self.phase == "prefill":
            return np.zeros(len(self.seconds), dtype=bool)
        return rule_of(self.kernel, self.gpu.arch).single(self.case, chip_of(self.gpu))

    def where(self, chosen: Any) -> "Table":
        """The chosen rows alone."""
        case = sizes_of({name: getattr(self.case, name)[chosen] for name in SIZES})
        return self._replace(case=case, seconds=self.seconds[chosen], bucket=self.bucket[chosen])

    def names(self) -> Iterator[str]:
        """Every row in words."""
        columns = (getattr(self.case, name).tolist() for name in SIZES[:-1])
        for row in zip(*columns, strict=True):
            sizes = ", ".join(f"{name} {size}" for name, size in zip(SIZES[:-1], row, strict=True))
            yield f"{self.kernel} {self.version}, {self.phase}, {sizes}, bf16, causal"


def sizes_of(sizes: Mapping[str, Any]) -> Case:
    """A case whose sizes are arrays, causal and in bf16."""
    return Case("flash", **sizes, dtype=bfloat16, mask=Mask(causal=True), phase="inference")


@cache
def kernel_tables() -> tuple[Table, ...]:
    """The rows on record, a table for each kernel, GPU and phase."""
    return tuple(table for phase in _FILES for table in _tables(phase))


def _tables(phase: str) -> Iterator[Table]:
    groups: dict[tuple[str, str, str], dict[tuple[int, ...], float]] = {}
    with gzip.open(DATA / "kernels" / _FILES[phase], "rt") as text:
        rows = csv.reader(text)
        of = itemgetter(*map(next(rows).index, _COLUMNS))
        for gpu, framework, source, version, latency, *shape in map(of, rows):
            kernel = _KERNELS[framework, source]
            if gpu in GPUS:
                shapes = groups.setdefault((GPUS[gpu], kernel, version), {})
                shapes.setdefault(tuple(map(int, shape)), float(latency) / 1e3)
    for (gpu, kernel, version), shapes in groups.items():
        batch, new, before, heads, kv_heads, head_dim = np.array(list(shapes), dtype=np.int64).T
        case = sizes_of(dict(zip(SIZES, (batch, heads, kv_heads, new, new + before, head_dim, head_dim), strict=True)))
        seconds, buckets = np.array(list(shapes.values())), np.array([_bucket(shape) for shape in shapes])
        yield Table(load_gpu(gpu), kernel, phase, version, as_run(case, kernel), seconds, buckets)


def expected(table: Table, kernel: ServingKernel) -> Parts:
    """What the package expects of the rows, by a kernel's constants: arrays with an element for each."""
    found: dict[str, Any] = {}
    for rows, parts in _by_constants(table, kernel):
        for name, seconds in {"units": parts.units, "memory": parts.memory, **parts.beside}.items():
            found.setdefault(name, np.zeros(len(rows)))[rows] = seconds
    return Parts(found.pop("units"), found.pop("memory"), found)


def _by_constants(table: Table, kernel: ServingKernel) -> Iterator[tuple[Any, Parts]]:
    """The rows that have the same constants, and their parts."""
    chip, dims, single = chip_of(table.gpu), table.case.head_dim, table.single
    if table.phase == "prefill":
        for head_dim in np.unique(dims):
            rows = dims == head_dim
            yield rows, prefill_parts(table.where(rows).case, chip, kernel.prefill(int(head_dim))[0])
        return
    for of_kernel in (False, True):
        rows = single == of_kernel
        yield rows, decode_parts(table.where(rows).case, chip, kernel.decode(of_kernel))


@cache  # the stacks measured the same shapes
def _bucket(shape: tuple[int, ...]) -> int:
    """0 to 99, by the shape alone, so that a shape is judged on every GPU or on none."""
    return int(hashlib.md5("-".join(map(str, shape)).encode()).hexdigest()[:8], 16) % 100

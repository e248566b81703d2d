"""Measured steps of whole models on several GPUs beside the model's: `python -m memmodel_evidence.steps`.

The rows are SimuMax's (MooreThreads/SimuMax, docs/b200): Megatron-LM 0.14 with TransformerEngine 2.11 on eight B200,
Llama 3 70B with 12 layers. They were seen when the account of Megatron-LM was made: they show that it is whole, and do
not judge it. No number of it is fitted to them.
"""

import csv
from dataclasses import replace
from functools import cache
from statistics import median
from typing import NamedTuple

from memmodel.gpus import Gpu, load_gpu
from memmodel.gpus.links import node_of
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.program import program_of
from memmodel.models.ranks import memory_by_kind
from memmodel.models.setting import ModelCase
from memmodel.models.step_time import stages_of, step_time
from memmodel.step import device_of
from memmodel.timing import Constant, Machine
from memmodel.timing.transfer import expected_rates
from memmodel_evidence.records import DATA

GPU, GPUS = "B200", 8
TORCH = "2.10"  # of NVIDIA's container 26.01
LEFT_OUT = "mixtures of experts and latent attention are not part of the account of Megatron-LM"
# What products of training shapes reach there of the peak of 2,250 TFLOP/s, by SimuMax's own measurements of kernels
# (configs/system/b200_bf16_ceperm.json, efficient_factor of matmul): that machine is slower than other B200 on record.
PRODUCTS = 0.4878 * 2250e12
_OF_PRODUCTS = ("matmul.bf16", "matmul.bf16.values", "matmul.bf16.scores")


class Row(NamedTuple):
    """A rank's measured peaks, in MiB, and the step's milliseconds, of a case."""

    case: str
    model: str
    layers: int
    seq: int
    microbatches: int
    tp: int
    pp: int
    cp: int
    ep: int
    rank: int
    allocated: float
    reserved: float
    milliseconds: float

    @property
    def stage(self) -> int:
        """The pipeline stage of the rank."""
        return self.rank * self.pp // GPUS


@cache
def rows() -> tuple[Row, ...]:
    """Every row."""
    with (DATA / "steps" / "simumax_b200.csv").open() as file:
        return tuple(
            Row(
                row["case"], row["model"], *(int(row[name]) for name in ("layers", "seq", "microbatches")),
                *(int(row[name]) for name in ("tp", "pp", "cp", "ep", "rank")),
                *(float(row[name]) for name in ("allocated_MiB", "reserved_MiB", "step_ms")),
            )
            for row in csv.DictReader(file)
        )  # fmt: skip


def dense() -> list[Row]:
    """The rows that the account holds."""
    return [row for row in rows() if row.model == "llama-3.1-70b"]


def peaks(row: Row) -> tuple[float, float]:
    """MiB allocated and reserved of a row's rank, by the model."""
    gpu = load_gpu(GPU)
    return _kinds(_case(row, gpu), gpu)[row.stage]


def milliseconds(row: Row, own: bool = False) -> float:
    """The time to expect of a row's step: with usual rates, or with that machine's `own` of products."""
    gpu = load_gpu(GPU)
    return 1e3 * _seconds(_case(row, gpu), gpu, own)


def _case(row: Row, gpu: Gpu) -> ModelCase:
    """The call: `model --framework megatron --zero 1 --loss fused`, of 12 layers and SimuMax's null tokenizer."""
    arch = replace(listed(row.model).architecture, layers=row.layers, vocab=128257)
    case = model_case(
        arch, framework="megatron", loss="fused", seq=row.seq, microbatches=row.microbatches, torch=TORCH, tp=row.tp,
        pp=row.pp, cp=row.cp, dp_shard=GPUS // (row.tp * row.pp * row.cp), zero=1, sequence_parallel=row.tp > 1,
    )  # fmt: skip
    return replace(case, device=device_of(gpu))


@cache
def _kinds(case: ModelCase, gpu: Gpu) -> tuple[tuple[float, float], ...]:
    """MiB allocated and reserved of each stage; the number of micro-batches does not matter, as measured."""
    found = (kind.memory for kind in memory_by_kind(case, gpu, None))
    return tuple((memory.allocated_peak_bytes / 2**20, memory.reserved_peak_bytes / 2**20) for memory in found)


@cache
def _seconds(case: ModelCase, gpu: Gpu, own: bool) -> float:
    rates = expected_rates(gpu)
    if own:
        constants = {name: Constant(PRODUCTS, "SimuMax's measurements of products") for name in _OF_PRODUCTS}
        rates = rates._replace(constants={**rates.constants, **constants})
    return step_time(case, Machine(gpu, rates), node_of(gpu), stages_of(case, program_of)).seconds


def off(predicted: float, measured: float) -> float:
    """Predicted over measured, less one, in per cent."""
    return 100 * (predicted / measured - 1)


def main() -> None:
    """Print each case with its largest residuals, and the medians of their absolute values."""
    by_case: dict[str, list[Row]] = {}
    for row in dense():
        by_case.setdefault(row.case, []).append(row)
    allocated = {row: off(peaks(row)[0], row.allocated) for row in dense()}
    reserved = {row: off(peaks(row)[1], row.reserved) for row in dense()}
    print(f"{'case':52} allocated  reserved   step   with that machine's products")
    for case, found in by_case.items():
        memory = (max((residual[row] for row in found), key=abs) for residual in (allocated, reserved))
        times = (off(milliseconds(found[0], own), found[0].milliseconds) for own in (False, True))
        print("{:52} {:+8.4f} % {:+7.2f} %".format(case, *memory), *(f"{time:+7.1f} %" for time in times))
    print(f"\n{len(by_case)} cases, {len(allocated)} ranks; medians of absolute residuals:")
    print(f"allocated {median(map(abs, allocated.values())):.4f} %")
    print(f"reserved  {median(map(abs, reserved.values())):.2f} %")
    for own, words in ((False, "usual rates"), (True, "that machine's products")):
        steps = (abs(off(milliseconds(found[0], own), found[0].milliseconds)) for found in by_case.values())
        print(f"step time {median(steps):.1f} %, {words}")
    without = {row.case for row in rows()} - set(by_case)
    print(f"not judged: {len(without)} cases of DeepSeek-V2: {LEFT_OUT}")


if __name__ == "__main__":
    main()

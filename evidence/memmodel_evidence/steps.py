"""Measured steps of whole models on several GPUs beside the model's: `python -m memmodel_evidence.steps`.

The rows are SimuMax's (MooreThreads/SimuMax, docs/b200): Megatron-LM 0.14 with TransformerEngine 2.11 on eight B200,
Llama 3 70B with 12 layers and DeepSeek-V2 with 4. The first were seen when the account of Megatron-LM was made: they
show that it is whole, and do not judge it. That of mixtures and latent attention is as the sources have it. No number
is fitted to any.
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
from memmodel.timing import Machine
from memmodel.timing.transfer import expected_rates
from memmodel_evidence.records import DATA

GPU, GPUS = "B200", 8
TORCH = "2.10"  # of NVIDIA's container 26.01


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


MODELS = ("llama-3.1-70b", "deepseek-v2")


def dense() -> list[Row]:
    """The rows of Llama."""
    return [row for row in rows() if row.model == MODELS[0]]


def mixtures() -> list[Row]:
    """The rows of DeepSeek-V2."""
    return [row for row in rows() if row.model == MODELS[1]]


def peaks(row: Row) -> tuple[float, float]:
    """MiB allocated and reserved of a row's rank, by the model."""
    gpu = load_gpu(GPU)
    return _kinds(_case(row, gpu), gpu)[row.stage]


def milliseconds(row: Row) -> float:
    """The time to expect of a row's step."""
    gpu = load_gpu(GPU)
    return 1e3 * _seconds(_case(row, gpu), gpu)


def _case(row: Row, gpu: Gpu) -> ModelCase:
    """The call: `model --framework megatron --zero 1 --loss fused`, of few layers and SimuMax's null tokenizer."""
    arch = listed(row.model).architecture
    arch = replace(arch, layers=row.layers, vocab=arch.vocab + 1)
    case = model_case(
        arch, framework="megatron", loss="fused", seq=row.seq, microbatches=row.microbatches, torch=TORCH, tp=row.tp,
        pp=row.pp, cp=row.cp, ep=row.ep, dp_shard=GPUS // (row.tp * row.pp * row.cp), zero=1,
        sequence_parallel=row.tp > 1,
    )  # fmt: skip
    return replace(case, device=device_of(gpu))


@cache
def _kinds(case: ModelCase, gpu: Gpu) -> tuple[tuple[float, float], ...]:
    """MiB allocated and reserved of each stage; the number of micro-batches does not matter, as measured."""
    found = (kind.memory for kind in memory_by_kind(case, gpu, None))
    return tuple((memory.allocated_peak_bytes / 2**20, memory.reserved_peak_bytes / 2**20) for memory in found)


@cache
def _seconds(case: ModelCase, gpu: Gpu) -> float:
    return step_time(case, Machine(gpu, expected_rates(gpu)), node_of(gpu), stages_of(case, program_of)).seconds


def off(predicted: float, measured: float) -> float:
    """Predicted over measured, less one, in per cent."""
    return 100 * (predicted / measured - 1)


def main() -> None:
    """Print each case with its largest residuals, and the medians of their absolute values."""
    print(f"{'case':52} allocated  reserved   step")
    for found in (dense(), mixtures()):
        _show(found)


def _show(found: list[Row]) -> None:
    """The cases of a model."""
    by_case: dict[str, list[Row]] = {}
    for row in found:
        by_case.setdefault(row.case, []).append(row)
    allocated = {row: off(peaks(row)[0], row.allocated) for row in found}
    reserved = {row: off(peaks(row)[1], row.reserved) for row in found}
    times = {case: off(milliseconds(ranks[0]), ranks[0].milliseconds) for case, ranks in by_case.items()}
    for case, ranks in by_case.items():
        memory = (max((residual[row] for row in ranks), key=abs) for residual in (allocated, reserved))
        print("{:52} {:+8.4f} % {:+7.2f} %".format(case, *memory), f"{times[case]:+7.1f} %")
    print(
        f"{len(by_case)} cases, {len(allocated)} ranks of {found[0].model}; medians of absolute residuals, and largest:"
    )
    for name, residuals in (("allocated", allocated), ("reserved", reserved)):
        sizes = sorted(abs(residual) for residual in residuals.values())
        print(f"{name:9} {median(sizes):.4f} %, {sizes[-1]:.4f} %")
    sizes = sorted(map(abs, times.values()))
    print(f"step time {median(sizes):.1f} %, {sizes[-1]:.1f} %")
    print()


if __name__ == "__main__":
    main()

"""Published tokens a second of models under FSDP beside the model's: `python -m memmodel_evidence.speeds`.

Power, not tiles, bounds the products of a whole step: of the best rate on record (`matmul.bf16`, a product alone) a
step's reach a share, `matmul.bf16.wide`. It is the one constant that is fitted to steps, to those of llm-foundry
(MosaicML's MPT models) with at most 2,048 tokens a sequence: on longer ones its attention of 2023 decides, which is not
modelled (its benchmarks take Triton's: submit_benchmarks.py, `--attn_impl`). On other GPUs it is transferred as every
share of a peak. Every other table judges it. `--fit` fits it anew, `--all` prints llm-foundry's rows too.
"""

import csv
import json
import sys
from dataclasses import replace
from functools import cache
from statistics import median
from typing import Any, NamedTuple

from memmodel.gpus import Gpu, load_gpu, load_gpu_file
from memmodel.gpus.links import node_of
from memmodel.models.architecture import Architecture
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.families import architecture_of
from memmodel.models.program import program_of
from memmodel.models.setting import ModelCase
from memmodel.models.step_time import StepTime, stages_of, step_time
from memmodel.step import device_of
from memmodel.timing import Constant, Machine
from memmodel.timing.transfer import expected_rates
from memmodel_evidence.records import DATA

FITTED = "llm-foundry"  # the table that the constant is fitted to
WIDE, BEST = "matmul.bf16.wide", "matmul.bf16"
_LONGEST = 2048  # tokens of a sequence in the rows that it is fitted to
_SHARES = DATA / "steps" / "wide_products.json"
_LINKS = {"mi300x": "pcie-4,ib-hdr"}  # whose Infinity Fabric is not among the known links
# Width, heads, layers of MPT: llm-foundry's scripts/train/yamls/pretrain.
_MPT = {
    "mpt-125m": (768, 12, 12), "mpt-350m": (1024, 16, 24), "mpt-760m": (1536, 12, 24), "mpt-1b": (2048, 16, 24),
    "mpt-3b": (2560, 20, 32), "mpt-7b": (4096, 32, 32), "mpt-13b": (5120, 40, 40), "mpt-30b": (7168, 56, 48),
    "mpt-70b": (8192, 64, 80),
}  # fmt: skip


class Row(NamedTuple):
    """A published run, with its tokens a second and GPU. `table`: a short name of its source."""

    table: str
    source: str
    gpu: str
    model: str
    seq: int
    gpus: int
    batch: int
    microbatches: int
    checkpoint: str
    compiled: bool
    reshard: bool
    tokens_a_second: float

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.batch * self.microbatches * self.seq / self.tokens_a_second

    def __str__(self) -> str:
        how = f"{self.batch} x {self.seq} a GPU, recomputing {self.checkpoint}{', compiled' if self.compiled else ''}"
        return f"{self.table}: {self.model} on {self.gpus} GPUs, {how}"


@cache
def rows() -> tuple[Row, ...]:
    """Every row."""
    with (DATA / "steps" / "fsdp_speeds.csv").open() as file:
        return tuple(
            Row(
                row["table"], row["source"], row["gpu"], row["model"], int(row["seq"]), int(row["gpus"]),
                int(row["batch"]), int(row["microbatches"]), row["checkpoint"], row["compiled"] == "1",
                row["reshard"] == "1", float(row["tokens_a_second"]),
            )
            for row in csv.DictReader(file)
        )  # fmt: skip


def machine(name: str) -> Gpu:
    """A row's GPU: a known one, or one of a file beside the rows, where its table states other memory or less power."""
    path = DATA / "steps" / f"{name}.toml"
    return load_gpu_file(path) if path.exists() else load_gpu(name)


def judged() -> list[Row]:
    """The rows of tables that no constant is fitted to."""
    return [row for row in rows() if row.table != FITTED]


def fitted_rows(gpu: str) -> list[Row]:
    """The rows that the constant of a GPU is fitted to."""
    return [row for row in rows() if (row.table, row.gpu) == (FITTED, gpu) and row.seq <= _LONGEST]


def predicted(row: Row, share: float | None = None) -> StepTime:
    """The time of a row's step; `share`: of the best product, in place of the shipped constant."""
    gpu = machine(row.gpu)
    rates = expected_rates(gpu)
    if share is not None:
        wide = Constant(rates.constants[BEST].at(0.0) * share, "")
        rates = rates._replace(constants={**rates.constants, WIDE: wide})
    case = _case(row, gpu)
    return step_time(case, Machine(gpu, rates), node_of(gpu, _LINKS.get(gpu.id)), stages_of(case, program_of))


def _case(row: Row, gpu: Gpu) -> ModelCase:
    """llm-foundry runs flash-attn and its cross-entropy; torchtitan scaled_dot_product_attention, and an eager loss."""
    foundry = {"attention": "flash-attn", "loss": "in-place"}
    own: dict[str, Any] = foundry if row.table == FITTED else {"eager_loss": row.compiled and row.table == "torchtitan"}
    case = model_case(
        _architecture(row), seq=row.seq, batch=row.batch, microbatches=row.microbatches, checkpoint=row.checkpoint,
        compiled=row.compiled, gpus=row.gpus, reshard=row.reshard, masters=True, fused_norms=True,
        optimizer="adamw-fused", torch="2.6", **own,
    )  # fmt: skip
    return replace(case, device=device_of(gpu))


def _architecture(row: Row) -> Architecture:
    if row.model not in _MPT:
        return listed(row.model).architecture
    hidden, heads, layers = _MPT[row.model]
    config = {"model_type": "gpt2", "n_embd": hidden, "n_head": heads, "n_layer": layers, "n_positions": row.seq}
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return architecture_of({**config, **none, "vocab_size": 50368, "activation_function": "gelu"}, row.model)


@cache
def shares() -> dict[str, float]:
    """By GPU, the share of the best product that those of its published steps reach."""
    found: dict[str, float] = json.loads(_SHARES.read_text(encoding="utf-8"))
    return found


def fitted(gpu: str) -> float:
    """The median of the shares with which each row's time is as published: a step is a + b / share."""
    found = []
    for row in fitted_rows(gpu):
        whole, half = predicted(row, 1.0).seconds, predicted(row, 0.5).seconds
        found.append((half - whole) / (row.seconds - (2 * whole - half)))
    return float(f"{median(found):.3g}")


def wide_products(gpu: str, best: dict[str, Constant]) -> dict[str, Constant]:
    """The constants of a GPU's calibration, of its best products on record; none where no step was published."""
    if gpu not in shares():
        return {}
    origin = f"fitted to {len(fitted_rows(gpu))} published steps: {FITTED}, up to {_LONGEST} tokens a sequence"
    return {
        f"{name}.wide": Constant(float(f"{of.at(0.0) * shares()[gpu]:.4g}"), origin)
        for name, of in best.items()
        if name in ("matmul.bf16", "matmul.fp16")
    }


def kind(row: Row) -> str:
    """Why a row judges, or not."""
    if row.table != FITTED:
        return "judged"
    if row.seq > _LONGEST:
        return "attention of 2023"
    return "fitted" if row.gpu in shares() else "transferred"


def main() -> None:
    """Print every judged row, or every row, and medians; with `--fit`, fit the shares first."""
    if "--fit" in sys.argv:
        gpus = dict.fromkeys(row.gpu for row in rows() if fitted_rows(row.gpu) and row.gpu != "a100-40gb-sxm")
        _SHARES.write_text(json.dumps({gpu: fitted(gpu) for gpu in gpus}, indent=1) + "\n", encoding="utf-8")
        shares.cache_clear()
    print(shares())
    errors: dict[str, list[float]] = {}
    for row in rows() if "--all" in sys.argv else judged():
        found = predicted(row)
        error = 100 * (found.seconds / row.seconds - 1)
        errors.setdefault(kind(row), []).append(abs(error))
        print(f"{row!s:90} {row.gpu:15} {row.seconds:7.3f} {found.seconds:7.3f} s {error:+6.1f} %  {kind(row)}")
    for of, sizes in errors.items():
        print(f"{of}: {len(sizes)} rows, median {median(sizes):.1f} %, worst {max(sizes):.1f} %")


if __name__ == "__main__":
    main()

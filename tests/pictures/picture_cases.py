"""Configurations that pictures are tried on: small, grouped, many events, one that does not fit, one without a peak."""

from collections.abc import Sequence
from typing import Any

from click.testing import CliRunner, Result

from memmodel.attention.case import Case
from memmodel.cases import cases_of, on_gpu
from memmodel.cli import cli
from memmodel.gpus import load_gpu

CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("A100", "naive", {"seq": 16384}),
    ("A100", "flash", {"seq": 16384}),
    ("H100", "naive", {"seq": 64, "heads": 1, "head_dim": 16}),
    ("T4", "naive", {"heads": 32, "kv_heads": 8, "mask": "causal", "dtype": "fp16"}),
    ("H100", "naive", {"torch": "2.15"}),
    ("H100", "chunked", {"seq": 8192, "chunk": 512}),
    ("H100", "checkpointed", {}),
    ("B200", "compiled", {"phase": "forward"}),
    ("A100", "decode", {"seq": 1, "kv_seq": 4096, "phase": "inference"}),
    ("H100", "flash-deterministic", {"mask": "window", "window": 256}),
    ("RTX 4090", "naive-by-hand", {"dtype": "fp32"}),
)
IDS = [f"{gpu}-{algorithm}" for gpu, algorithm, _ in CASES]


def cases(gpu: str, algorithms: Sequence[str], sizes: dict[str, Any]) -> tuple[list[Case], Any]:
    """Checked cases and the GPU."""
    device = load_gpu(gpu)
    return on_gpu(cases_of(algorithms, **sizes), device), device


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args, catch_exceptions=False, standalone_mode=False)

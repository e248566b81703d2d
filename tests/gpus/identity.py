"""The identity that a listed peak should obey: SMs x FLOP per clock per SM x clock."""

from functools import cache
from pathlib import Path
from typing import Any

from memmodel.base.errors import UsageError
from memmodel.base.files import read_toml
from memmodel.gpus.gpu import Gpu, Pipe


@cache
def rate_tables() -> dict[str, dict[str, Any]]:
    """Load FLOP per clock per SM: architecture -> pipe -> element type."""
    return read_toml(str(Path(__file__).with_name("gpu_rates.toml")))


def flop_per_clock_per_sm(gpu: Gpu, name: str, pipe: Pipe) -> int | None:
    """Return dense FLOP per clock of one SM, None where not known."""
    rate: int | None = rate_tables().get(gpu.rates, {}).get(pipe, {}).get(name)
    return rate


def peak_clock(gpu: Gpu, name: str, pipe: Pipe) -> float:
    """Return the clock of a listed peak: the tensor clock; for fp64 and the vector pipe, the boost clock."""
    if "boost_clock" not in gpu.values or (pipe == "tensor" and name != "fp64"):
        return gpu.tensor_clock
    return gpu.boost_clock


def expected_peak(gpu: Gpu, name: str, pipe: Pipe) -> float:
    """Return FLOP/s by the identity. Raises UsageError where a factor is not known."""
    rate = flop_per_clock_per_sm(gpu, name, pipe)
    if rate is None:
        raise UsageError(f"no FLOP per clock per SM is known for {pipe} {name} on {gpu.name}")
    return gpu.sm_count * rate * peak_clock(gpu, name, pipe)

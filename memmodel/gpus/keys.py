"""The vocabulary of GPU files: keys, which end in their unit, and the short names of sources."""

from functools import cache
from types import MappingProxyType

from memmodel.base.errors import unknown
from memmodel.base.files import read_table

KiB, MiB, GiB = 2**10, 2**20, 2**30

# key in a file -> (quantity, factor to bytes, bytes/s, Hz, FLOP/s, W or $ an hour)
KEYS = MappingProxyType(
    {
        "sm_count": ("sm_count", 1),
        "boost_clock_MHz": ("boost_clock", 1e6),
        "tensor_clock_MHz": ("tensor_clock", 1e6),
        "bandwidth_GBps": ("bandwidth", 1e9),
        "bandwidth_TBps": ("bandwidth", 1e12),
        "capacity_GiB": ("capacity", GiB),
        "capacity_MiB": ("capacity", MiB),
        "capacity_bytes": ("capacity", 1),
        "nvidia_smi_MiB": ("nvidia_smi", MiB),
        "marketed_GB": ("marketed_GB", 1),
        "context_low_MiB": ("context_low", MiB),
        "context_high_MiB": ("context_high", MiB),
        "l2_MiB": ("l2", MiB),
        "l2_bandwidth_GBps": ("l2_bandwidth", 1e9),
        "shared_memory_per_sm_KiB": ("shared_memory_per_sm", KiB),
        "shared_memory_per_block_KiB": ("shared_memory_per_block", KiB),
        "registers_per_sm_KiB": ("registers_per_sm", KiB),
        "exp_per_clock_per_sm": ("exp_per_clock_per_sm", 1),
        "tdp_W": ("tdp", 1),
        "power_limit_W": ("power_limit", 1),
        "dollars_per_hour": ("price", 1),
    }
)
PEAK_TABLES = MappingProxyType({"tensor_TFLOPS": "tensor", "vector_TFLOPS": "vector"})
PEAK_NAMES = (
    *("fp4", "fp6", "fp8", "fp8_fp16acc", "int8"),
    *("fp16", "fp16_fp16acc", "bf16", "tf32", "fp32", "fp64"),
)
TEXT_KEYS = ("name", "vendor", "arch", "rates", "memory", "note")


def file_key(quantity: str) -> str:
    """Return the key of `quantity` in a GPU file: `capacity_GiB` for `capacity`."""
    pipe, dot, name = quantity.partition(".")
    if dot:
        return f"{pipe}_TFLOPS.{name}"
    for key, (known, _) in KEYS.items():
        if known == quantity:
            return key
    raise unknown("quantity of a GPU", quantity, {known for known, _ in KEYS.values()})


@cache
def known_sources() -> dict[str, str]:
    """Load the texts of the sources, by the short names that shipped GPU files give them."""
    return read_table("gpu_sources.toml")


def source_text(source: str) -> str:
    """Return the text of a source named `ds-a100` or, with a detail, `xla:h100_sxm`. Other text stands for itself."""
    key, _, detail = source.partition(":")
    text = known_sources().get(key)
    if text is None:
        return source
    return f"{text} ({detail})" if detail else text

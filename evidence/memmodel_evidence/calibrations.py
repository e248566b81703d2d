"""The shipped calibrations, one per GPU: what recorded runs of it give, put together.

Elementwise and reduction bandwidths and fp32 products from naive attention, 16-bit products from published GEMM
measurements, flash constants from the kernel nearest to this package's own. The host's time for an operation belongs to
no GPU (`timing.host`). `python -m memmodel_evidence.fit` writes
their files.
"""

from pathlib import Path

import memmodel
from memmodel.gpus import load_gpu
from memmodel.timing import Calibration, Constant
from memmodel_evidence.speeds import wide_products

SHIPPED = Path(memmodel.__file__).parent / "data" / "calibrations"

# By GPU: the fits whose constants it takes.
MADE_OF = {
    "h100-sxm": ("h100-sxm", "h100-sxm.triton-nightly-2024", "h100-sxm.cudnn-9"),
    "h20": ("h20", "h100-sxm.flashattention-2"),
    "b200": ("b200", "h100-sxm.flashattention-2"),
    "rtx-pro-6000-blackwell": ("rtx-pro-6000-blackwell",),
    "a100-80gb-sxm": ("a100-80gb-sxm", "a100-80gb-sxm.flashattention-2"),
    "h200-sxm": ("h200-sxm",),
    "rtx-5090": ("rtx-5090",),
    "a10g": ("a10g",),
}


def shipped_calibration(gpu_id: str, parts: list[Calibration]) -> Calibration:
    """The calibration of a GPU from its fits and its published GEMM rates."""
    constants: dict[str, Constant] = {}
    for part in parts:
        constants |= _named(part)
    best = published_products(gpu_id)
    constants = {**best, **wide_products(gpu_id, best), **constants}
    constants = {name: found for name, found in constants.items() if not name.startswith("dispatch")}  # of a host
    kernels = [of for part in parts if (of := part.machine.get("implementation")) and not of.startswith(_CUDNN)]
    notes = [note for part in parts for note in part.notes]
    notes += [f"flash kernels are taken to be as fast as {kernel}" for kernel in kernels]
    name = f"other people's runs on {parts[0].machine['gpu']}"
    return Calibration(
        name, "community", {**parts[0].machine, "implementation": ", ".join(kernels)}, constants, tuple(notes)
    )


_CUDNN = "cuDNN"


def _named(part: Calibration) -> dict[str, Constant]:
    """The constants of a part; those of cuDNN's attention have names of their own."""
    of_cudnn = part.machine.get("implementation", "").startswith(_CUDNN)
    return {name.replace("flash", "cudnn") if of_cudnn else name: of for name, of in part.constants.items()}


def published_products(gpu_id: str) -> dict[str, Constant]:
    """Matrix products that others measured; a "16bit" one holds for bf16 and fp16."""
    gpu = load_gpu(gpu_id)
    found: dict[str, Constant] = {}
    for measured in gpu.measured:
        if measured.what == "gemm":
            for dtype in {"16bit": ("bf16", "fp16"), "bf16": ("bf16", "fp16"), "fp16": ("fp16",)}.get(
                measured.dtype, ()
            ):
                found.setdefault(f"matmul.{dtype}", Constant(measured.rate, f"published GEMM rate: {measured.source}"))
    return found

"""Compiling a kernel for any NVIDIA architecture on a machine without a GPU, and what the compiler says about it.

Triton compiles for an explicit target without touching a driver. The signature that a launch would infer from its
arguments follows here from the parameter's name, the same in every kernel of this package: `stride_x` is a tuple of four,
`scale...` a float, UPPER CASE a constant, the names in TENSORS are tensors, the rest are 32-bit ints.

It needs a process without TRITON_INTERPRET, which makes kernels uncompilable.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TENSORS = ("q", "k", "v", "o", "do", "dq", "dk", "dv", "q_stream", "do_stream", "k_stream", "v_stream")
FP32_TENSORS = ("lse", "delta", "dlse", "dq_sum")
ALIGNED = [["tt.divisibility", 16]]

Constants = Mapping[str, int | bool | str]
Path_ = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Binary:
    """What a compiled kernel costs: registers per thread, spilled bytes per thread, shared memory bytes per program."""

    registers: int
    spilled: int
    shared: int
    wgmma: int
    mma: int
    tma: int


def compile_kernel(
    kernel: Any,
    constants: Constants,
    *,
    arch: int,
    dtype: str,
    warps: int,
    stages: int,
    boxes: Mapping[str, tuple[int, int]] | None = None,
) -> Binary:
    """Compile `kernel` for sm_`arch`. `dtype` is Triton's name (bf16); `boxes` the (rows, cols) of each TMA descriptor."""
    source = _source(kernel, constants, dtype, boxes or {})
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    registers, stack = _resources(compiled.asm["cubin"])
    ptx = compiled.asm["ptx"]
    return Binary(
        registers=registers,
        spilled=stack,
        shared=compiled.metadata.shared,
        wgmma=ptx.count("wgmma.mma_async"),
        mma=ptx.count("mma.sync"),
        tma=ptx.count("cp.async.bulk.tensor"),
    )


def _source(kernel: Any, constants: Constants, dtype: str, boxes: Mapping[str, tuple[int, int]]) -> ASTSource:
    signature: dict[str, str | tuple[str, ...]] = {}
    values: dict[Path_, int | bool | str] = {}
    attributes: dict[Path_, list[list[str | int]]] = {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            values[i,] = constants[name]
        elif name in boxes:
            signature[name] = f"tensordesc<{_element(name, dtype)}{[1, 1, *boxes[name]]}>"
        elif name in TENSORS or name in FP32_TENSORS:
            signature[name] = f"*{_element(name, dtype)}"
            attributes[i,] = ALIGNED
        elif name.startswith("stride_"):
            # Three aligned strides and an innermost one of 1, which a launch specialises on.
            signature[name] = ("i32", "i32", "i32", "constexpr")
            values[i, 3] = 1
            attributes |= {(i, axis): ALIGNED for axis in range(3)}
        else:
            signature[name] = "fp32" if name.startswith("scale") else "i32"
    return ASTSource(kernel, signature, constexprs=values, attrs=attributes)


def _element(name: str, dtype: str) -> str:
    return "fp32" if name in FP32_TENSORS else dtype


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers, stack bytes) per thread. These kernels keep no arrays, so whatever is on the stack was spilled."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", run.stdout)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {run.stdout!r}")
    return int(found[1]), int(found[2])

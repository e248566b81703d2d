"""Compile a kernel for any NVIDIA architecture, without a GPU, and report what the compiler says of it.

Triton compiles for an explicit target without touching a driver. The signature that a launch would infer from its
arguments follows here from the parameter's name, the same in every kernel of this package: `stride_x` is a tuple
of four, `scale...` a float, UPPER CASE a constant, the names in TENSORS are tensors, the rest are 32-bit ints.

It needs a process without TRITON_INTERPRET, which makes kernels uncompilable.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TENSORS = ("q", "k", "v", "o", "do", "dq", "dk", "dv", "q_stream", "k_stream", "v_stream", "do_stream")
FP32_TENSORS = ("lse", "delta", "dlse", "dq_sum")
ALIGNED: list[list[str | int]] = [["tt.divisibility", 16]]

Constants = Mapping[str, int | bool | str]
ArgPath = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Binary:
    """What a compiled kernel costs: registers and spilled bytes per thread, shared memory bytes per program.

    `scratch` is device memory that a launch would have to allocate, bytes per program. `wgmma`, `tcgen05` and `mma`
    count the tensor-core instructions of sm_90, sm_100 and the others, `tma_copies` those of the copy engine.
    """

    registers: int
    spilled: int
    shared: int
    scratch: int
    wgmma: int
    tcgen05: int
    mma: int
    tma_copies: int


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
    """Compile `kernel` for sm_`arch`: `dtype` in Triton's words, `boxes` the (rows, cols) of TMA descriptors."""
    source = _source(kernel, constants, dtype, boxes or {})
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    with _assembler_log() as log:
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = compiled.asm["ptx"]
    return Binary(
        registers=_number(r"Used (\d+) registers", log.getvalue()),
        spilled=_number(r"(\d+) bytes spill stores", log.getvalue()),
        shared=compiled.metadata.shared,
        scratch=compiled.metadata.global_scratch_size,
        wgmma=ptx.count("wgmma.mma_async"),
        tcgen05=ptx.count("tcgen05.mma"),
        mma=ptx.count("mma.sync"),
        tma_copies=ptx.count("cp.async.bulk.tensor"),
    )


@contextlib.contextmanager
def _assembler_log() -> Iterator[io.StringIO]:
    """Collect what ptxas says of each kernel; a cached kernel would make it say nothing."""
    with (
        triton.knobs.nvidia.scope(),
        triton.knobs.compilation.scope(),
        contextlib.redirect_stdout(io.StringIO()) as log,
    ):
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        yield log


def _number(pattern: str, log: str) -> int:
    found = re.search(pattern, log)
    if found is None:
        raise RuntimeError(f"the assembler's log has no {pattern!r}: {log!r}")
    return int(found[1])


def _source(kernel: Any, constants: Constants, dtype: str, boxes: Mapping[str, tuple[int, int]]) -> ASTSource:
    signature: dict[str, str | tuple[str, ...]] = {}
    values: dict[ArgPath, int | bool | str] = {}
    attributes: dict[ArgPath, list[list[str | int]]] = {}
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

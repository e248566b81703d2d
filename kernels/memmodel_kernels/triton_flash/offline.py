"""Compile a launch for any NVIDIA architecture, without a GPU, and report what the compiler says of it.

Triton compiles for the target that its driver names, and touches no GPU until it launches: a driver that only names a
target is enough. It needs a process without TRITON_INTERPRET, which makes kernels uncompilable.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget

from memmodel_kernels.triton_flash.launch import Launch


@dataclass(frozen=True, slots=True)
class Binary:
    """The resources of a compiled kernel: registers and spilled bytes per thread, shared memory bytes per program.

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


class TargetDriver:
    """Stands in for Triton's driver: says which architecture to compile for, and does nothing else."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        """Name the target."""
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """Number the device by its architecture: Triton keeps the kernels of each device apart."""
        return self.arch

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0


def compile_launch(launch: Launch, arch: int) -> Binary:
    """Compile the kernel of `launch` for sm_`arch`, specialised as the launch would be. Tensors may be on `meta`."""
    triton.runtime.driver.set_active(TargetDriver(arch))
    with _assembler_log() as log:
        compiled = launch.kernel.warmup(*launch.arguments, grid=(launch.programs,), **launch.options)
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

"""cuBLAS workspaces: memory that PyTorch takes from the caching allocator at the first matrix product of a thread.

Before torch 2.12 products with a bias (linear layers), which run through cuBLASLt, take another: 1 MiB, kept from 2.9
on and given back after each product before (aten/src/ATen/cuda/CUDABlas.cpp, _getWorkspaceSize; pytorch/pytorch#156495,
#175879). Later it is cuBLAS' own.

Source: aten/src/ATen/cuda/CublasHandlePool.cpp (getChosenWorkspaceSize), and the CUDA wheels of the versions named; of
hipBLAS, docs/source/notes/hip.rst ("hipBLAS workspaces"). A handle, and so a workspace, belongs to a thread: forward's
and autograd's make two.
"""

from typing import Any, NamedTuple

from memmodel.base.errors import UsageError, shortened
from memmodel.base.units import whole

DEFAULT_TORCH = "2.13"
_FIRST, _LAST = (2, 4), (2, 15)
_LARGE = 4096 * 8 * 1024  # 32 MiB
_LT = 1024 * 1024
_HIP, _HIP_FROM_MI300 = 32 * 1024 * 1024, 128 * 1024 * 1024
_SMALL = 4096 * 1024 * 2 + 16 * 1024 * 8  # 8.125 MiB: two of 4 MiB, eight of 16 KiB


class Taken(NamedTuple):
    """A workspace: its name, of a thread and a library, its bytes, and whether it is given back after the kernel."""

    name: str
    nbytes: int
    per_call: bool


class Workspace(NamedTuple):
    """Bytes of a thread's workspace, and whether it is freed after each product; the same of cuBLASLt's own."""

    nbytes: int
    per_call: bool
    lt_nbytes: int = 0
    lt_per_call: bool = False

    def taken(self, launch: Any) -> list[Taken]:
        """The workspaces that a kernel allocates, which are not allocated yet."""
        found = []
        if launch.cublas and self.nbytes:
            found.append(Taken(launch.thread, self.nbytes, self.per_call))
        if launch.adds_bias and self.lt_nbytes:
            found.append(Taken(f"{launch.thread}, cuBLASLt", self.lt_nbytes, self.lt_per_call))
        return found


def parse_torch_version(text: str) -> tuple[int, int]:
    """(2, 11) from "2.11.0+cu130". Raises UsageError for text that is no version, or one that was not checked."""
    parts = str(text).split("+")[0].split(".")
    try:
        version = whole(parts[0]), whole(parts[1])
    except (ValueError, IndexError):
        raise UsageError(f"torch version {shortened(text)}: expected one like 2.11 or 2.11.0+cu130") from None
    if not _FIRST <= version <= _LAST:
        low, high = (".".join(map(str, v)) for v in (_FIRST, _LAST))
        raise UsageError(f"torch version {text}: the model was checked against {low} to {high}; choose one of these")
    return version


def workspace(torch_version: str, compute_capability: tuple[int, int] | None, arch: str = "") -> Workspace:
    """The workspace by torch version and GPU: NVIDIA's by compute capability, AMD's by `arch` (gfx942); else none."""
    version = parse_torch_version(torch_version)
    if compute_capability is None and arch.startswith("gfx"):
        return Workspace(_HIP_FROM_MI300 if arch.startswith(("gfx94", "gfx95")) else _HIP, version >= (2, 15))
    if compute_capability is None:
        return Workspace(0, False)
    major, minor = compute_capability
    if version < (2, 12):
        large = (major, minor) == (9, 0)
    elif version < (2, 14):
        large = major in (9, 10, 12)  # pytorch/pytorch#175344; 2.13 is inferred from 2.12
    else:
        large = major in (9, 10, 11, 12)  # pytorch/pytorch#189312
    size = _LARGE if large else _SMALL
    lt = _LT if version < (2, 12) else 0
    return Workspace(size, version >= (2, 15), lt, version < (2, 9))  # pytorch/pytorch#194311 for 2.15

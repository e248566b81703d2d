"""The serving kernels that were measured, with their fitted constants: `data/serving`, a file for each GPU.

`python -m memmodel_evidence.serving_fit` writes the files from the rows that they name.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from memmodel.base.errors import unknown
from memmodel.base.files import DATA, read_bytes
from memmodel.gpus import Gpu, load_gpu
from memmodel.sizes.dims import maximum
from memmodel.timing.nearest import by_likeness, relation
from memmodel.timing.serving.decode import Decode
from memmodel.timing.serving.parts import Parts, Seconds
from memmodel.timing.serving.prefill import Prefill

_FOLDER = os.path.join(DATA, "serving")
DEFAULTS = ("vllm-fa3", "vllm-trtllm-gen", "vllm-fa2")  # of those that a GPU has, the first is taken


class ServingKernel(NamedTuple):
    """A stack's kernel with its constants on a measured GPU.

    Attributes:
        name: of the kernel, such as "vllm-fa3". version: of the stack. measured: the id of the GPU.
        relation: of the GPU that is asked about to that one (see `timing.nearest`).
        document: constants and spreads by phase, as the file has them.
    """

    name: str
    version: str
    measured: str
    relation: str
    document: Any

    def prefill(self, head_dim: int) -> tuple[Prefill, int]:
        """The constants for a head dim, and the measured one that they are of: the next larger, or the largest."""
        found = self.document["prefill"]
        known = sorted(map(int, found["head_dims"]))
        taken = next((d for d in known if d >= head_dim), known[-1])
        return Prefill(**found["constants"], **found["head_dims"][str(taken)]), taken

    def decode(self, single: bool) -> Decode:
        """The constants of the kernel for single heads, or else of that for groups."""
        found = self.document["decode"]
        return Decode(**found["single" if single and "single" in found else "packed"])

    def spread(self, phase: str, parts: Parts, by_transfer: Any = None) -> Seconds:
        """The log of the factor from the expected time to the ends of its interval; elsewhere no less than there.

        Each part of the call has a spread, which counts by its share of the time. `by_transfer`: the spreads of
        transferred times, where they are not those that are shipped.
        """
        shares = parts.shares
        own = _weighted(self.document[phase]["spreads"], shares)
        if self.relation == "measured":
            return own
        # A transferred time cannot be surer than the one that it is transferred from.
        return maximum(own, _weighted((by_transfer or transfers())[phase][self.relation], shares))

    @property
    def origin(self) -> str:
        """Where the constants are from, in words."""
        rows = f"{self.name} {self.version} on {load_gpu(self.measured).name}"
        return f"fitted to rows of {rows}" if self.relation == "measured" else f"transferred from {rows}"


def _weighted(spreads: Mapping[str, float], shares: Mapping[str, Seconds]) -> Seconds:
    return sum(spreads[name] * share for name, share in shares.items())


@cache
def _documents(gpu_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_bytes(os.path.join(_FOLDER, f"{gpu_id}.json")))["kernels"]
    return found


@cache
def transfers() -> Any:
    """Spreads of transferred times, by phase and relation."""
    return json.loads(read_bytes(os.path.join(_FOLDER, "transfers.json")))


@cache
def measured_gpus() -> tuple[str, ...]:
    """The ids of GPUs with measured serving kernels."""
    names = (name.removesuffix(".json") for name in sorted(os.listdir(_FOLDER)) if name.endswith(".json"))
    return tuple(name for name in names if name != "transfers")


def kernel_names(gpu: Gpu) -> tuple[str, ...]:
    """The kernels known for a GPU, the default first: its own, or those of the GPU most like it."""
    names = _documents(by_likeness(gpu, measured_gpus())[0])
    return tuple(sorted(names, key=lambda name: (DEFAULTS.index(name) if name in DEFAULTS else len(DEFAULTS), name)))


def serving_kernel(gpu: Gpu, name: str | None = None, among: tuple[str, ...] | None = None) -> ServingKernel:
    """A kernel by name, or the default, with the constants of the GPU, or of the measured one most like it that has it.

    `among` limits the measured GPUs. Raises UsageError for a kernel that was measured nowhere.
    """
    ordered = by_likeness(gpu, among or measured_gpus())
    wanted = kernel_names(gpu)[0] if name is None else name.casefold()
    for measured in ordered:
        documents = _documents(measured)
        if wanted in documents:
            document = documents[wanted]
            return ServingKernel(wanted, document["version"], measured, relation(gpu, measured), document)
    raise unknown("serving kernel", wanted, sorted({name for id_ in ordered for name in _documents(id_)}))

"""Slices of a GPU: the instances of NVIDIA's Multi-Instance GPU, as GPUs of their own.

An instance has multiprocessors, memory, L2 and the memory's bandwidth for itself (its memory controllers are its
own), so that peaks fall with its multiprocessors and bandwidth with its eighths of memory. Clocks, and what one
multiprocessor has, stay the whole GPU's.
"""

from functools import cache
from typing import Any

from memmodel.base.errors import UsageError, choice
from memmodel.base.files import read_table
from memmodel.gpus.gpu import Gpu, Value

_GIB = 1 << 30
_OF_THE_CARD = ("tdp", "power_limit", "marketed_GB", "price")  # a slice has none of its own


@cache
def _document() -> dict[str, dict[str, Any]]:
    return read_table("mig.toml")


def profiles(id_: str) -> dict[str, list[float]]:
    """The profiles of a GPU by name: GiB, multiprocessors, eighths of bandwidth, eighths of L2; none if not known."""
    return _document().get(_document()["same"].get(id_, id_), {})


def instance(gpu: Gpu, profile: str) -> Gpu:
    """The instance of a profile such as 3g.40gb. Raises UsageError, which lists the GPU's profiles, for others."""
    known = profiles(gpu.id)
    if not known:
        raise UsageError(f"no MIG profiles are known for {gpu.name}: describe the slice in a file, for --gpu-file")
    # "1g.10gb+me" is the same slice with media engines, which compute nothing here.
    profile = choice(f"MIG profile of {gpu.name}", profile.split("+")[0], known)
    gib, sms, memory, l2 = known[profile]
    estimated = _document()["estimated"].get(gpu.id)
    memory_of_profile = Value(gib * _GIB, "mig-guide", estimated or f"as nvidia-smi mig -lgip prints {profile}")
    values = {q: v for q, v in gpu.values.items() if q not in _OF_THE_CARD} | {
        "capacity": memory_of_profile,
        "nvidia_smi": memory_of_profile,
        "sm_count": Value(sms, "mig-guide", estimated or f"{sms:g} of {gpu.sm_count}"),
    }
    shares = {"bandwidth": memory / 8, "l2": l2 / 8, "l2_bandwidth": l2 / 8}
    shares |= {q: sms / gpu.sm_count for q in values if q.startswith(("tensor.", "vector."))}
    values |= {q: _share(gpu.values[q], share) for q, share in shares.items() if q in values}
    return gpu.replace(
        id=f"{gpu.id}-mig-{profile}",
        name=f"{gpu.name} MIG {profile}",
        values=values,
        measured=(),
        rates="",
        ambiguity=f"{gpu.name} MIG {profile} is {estimated}" if estimated else "",
        note=f"A slice of {gpu.name}: {sms:g} of its {gpu.sm_count} multiprocessors, {memory:g}/8 of its bandwidth.",
    )


def _share(listed: Value, share: float) -> Value:
    return Value(listed.value * share, listed.source, f"{share:.3g} of the whole GPU's")

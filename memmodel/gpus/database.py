"""The database, one file per GPU, and users' files. A lookup parses the table of names and the one GPU."""

import re
from functools import cache
from os import PathLike, fspath
from os.path import basename, splitext

from memmodel.base.errors import UsageError
from memmodel.base.files import read_table, read_toml
from memmodel.gpus.files import gpu_of
from memmodel.gpus.gpu import Gpu
from memmodel.gpus.mig import instance, profiles
from memmodel.gpus.names import gpu_ids, ids_named, normal

_PROFILE = re.compile(r"(.*\S)[ _-]+([0-9]+g\.[0-9]+gb\S*)", re.IGNORECASE)  # a slice of which "MIG" is left out


@cache
def _gpu(id_: str) -> Gpu:
    return gpu_of(read_table(f"gpus/{id_}.toml"), id_)


def load_gpu(name: str) -> Gpu:
    """Load the GPU called `name`: an id, torch's device name or a short name.

    A name of several GPUs loads the first; the result's `ambiguity` then says so. "H100 MIG 3g.40gb", which torch calls
    "NVIDIA H100 80GB HBM3 MIG 3g.40gb", is a slice. Raises UsageError for an unknown name.
    """
    whole, _, profile = normal(str(name)).partition(" mig ")
    if not profile and (slice_ := _PROFILE.fullmatch(str(name))):
        raise UsageError(f"unknown GPU {name!r}: did you mean {' MIG '.join(slice_.groups())!r}?")
    ids = ids_named(whole if profile else name)
    if profile:  # of several GPUs of a name, the slice tells which: an A100 with 80 GB has no 4g.20gb
        ids = tuple(id_ for id_ in ids if profile in profiles(id_)) or ids[:1]
    taken, *others = ids
    gpu = instance(_gpu(taken), profile) if profile else _gpu(taken)
    if not others:
        return gpu
    return gpu.replace(ambiguity=f"{name} taken as {gpu.name}; also {', '.join(others)}")


def load_gpu_file(path: str | PathLike[str]) -> Gpu:
    """Load a user's file (docs/gpus.md describes it). With `base = "a10"` it holds only what differs from that GPU.

    Raises UsageError that names the file, the key, what was given and what was expected.
    """
    from memmodel.gpus.schema import check_document, check_gpu  # msgspec is slow to import, and only this needs it

    document, name = read_toml(fspath(path)), basename(path)
    check_document(document, name)
    start = {"base": load_gpu(document["base"])} if "base" in document else {}
    gpu = gpu_of(document, splitext(name)[0], f"user file {name}", **start)
    check_gpu(gpu, name)
    return gpu


def all_gpus() -> tuple[Gpu, ...]:
    """Load every GPU in the database."""
    return tuple(map(_gpu, gpu_ids()))

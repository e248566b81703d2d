"""The database, one file per GPU, and users' files. A lookup parses the table of names and that one file."""

from dataclasses import replace
from functools import cache
from os import PathLike, fspath
from os.path import basename, splitext

from memmodel.files import DATA, read_toml
from memmodel.gpus.files import gpu_of
from memmodel.gpus.gpu import Gpu
from memmodel.gpus.names import gpu_ids, ids_named


@cache
def _gpu(id_: str) -> Gpu:
    return gpu_of(read_toml(DATA, "gpus", f"{id_}.toml"), id_)


def load_gpu(name: str) -> Gpu:
    """Load the GPU called `name`: an id, torch's device name or a short name.

    A name of several GPUs loads the first; the result's `ambiguity` then says so. Raises UsageError for an unknown
    name.
    """
    taken, *others = ids_named(name)
    gpu = _gpu(taken)
    if not others:
        return gpu
    return replace(gpu, ambiguity=f"{name} taken as {gpu.name}; also {', '.join(others)}")


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

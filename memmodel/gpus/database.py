"""The database: one file per GPU. A lookup parses the table of names and that one file."""

from dataclasses import replace
from functools import cache
from os import PathLike, fspath
from os.path import basename, splitext

from memmodel.errors import UsageError
from memmodel.gpus.files import parse_gpu
from memmodel.gpus.gpu import Gpu
from memmodel.gpus.names import gpu_ids, ids_named
from memmodel.gpus.toml import DATA, read_toml


@cache
def _gpu(id_: str) -> Gpu:
    file = f"{id_}.toml"
    return parse_gpu(read_toml(DATA, "gpus", file), id_, where=file)


def load_gpu(name: str) -> Gpu:
    """Load the GPU called `name`: an id, torch's device name or a short name.

    A name that fits several GPUs takes the first; the result's `ambiguity` then says so.
    """
    taken, *others = ids_named(name)
    gpu = _gpu(taken)
    if not others:
        return gpu
    return replace(gpu, ambiguity=f"{name} taken as {gpu.name}; also {', '.join(others)}")


def load_gpu_file(path: str | PathLike[str]) -> Gpu:
    """Load a user's file. With `base = "a10"` it only holds what differs from that GPU."""
    document = read_toml(fspath(path))
    name = basename(path)
    base = document.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{name}: base must be the name of a GPU in quotes, not {base!r}")
    return parse_gpu(document, splitext(name)[0], where=name, base=None if base is None else load_gpu(base))


def all_gpus() -> tuple[Gpu, ...]:
    """Load every GPU in the database."""
    return tuple(map(_gpu, gpu_ids()))

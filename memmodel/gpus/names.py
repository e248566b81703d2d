"""GPUs by name. Matching is exact, never by substring: L4 is not L40, H20 is not H200."""

from functools import cache

from memmodel.base.errors import unknown
from memmodel.base.files import read_table


def normal(name: str) -> str:
    """Return `name` normalised: without case, vendor or brand, and with '-' and '_' as spaces."""
    words = name.casefold().replace("-", " ").replace("_", " ").split()
    if words[:1] == ["nvidia"]:
        words = words[1:]
    if words[:1] in (["geforce"], ["tesla"]):
        words = words[1:]
    return " ".join(words)


@cache
def _documents() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    document = read_table("gpu_names.toml")
    return document["names"], document["families"]


@cache
def _table() -> dict[str, tuple[str, ...]]:
    """Map a normalised name to the ids of its GPUs, the default first."""
    names, families = _documents()
    exact = {normal(name): (id_,) for id_, spellings in names.items() for name in (id_, *spellings)}
    return exact | {normal(family): tuple(ids) for family, ids in families.items()}


def gpu_ids() -> tuple[str, ...]:
    """List every id in the database."""
    return tuple(_documents()[0])


def spellings() -> list[str]:
    """List every name in the database as it is written there."""
    names, families = _documents()
    return [*names, *(name for group in names.values() for name in group), *families]


def ids_named(name: str) -> tuple[str, ...]:
    """Return the ids of the GPUs called `name`, the default first. Raises UsageError for an unknown name."""
    found = _table().get(normal(str(name)))
    if found is None:
        raise unknown("GPU", name, spellings(), "`memmodel gpus` lists them, --gpu-file describes another")
    return found

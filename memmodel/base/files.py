"""Read files: those that users name, with one clear error for anything but a regular file of a bounded size, and data.

The package's own tables are written in TOML, and read from `data/tables.jsonl`, which holds the same as JSON: to parse
the TOML took a quarter of the time of `memmodel predict`. `python -m memmodel.base.files` writes it after a change.
"""

import json
import os
from functools import cache
from os import PathLike, fspath
from stat import S_ISDIR, S_ISREG
from typing import Any

from memmodel.base.errors import UsageError

# By os.path: pathlib takes longer to import than a GPU to read.
DATA = os.path.join(os.path.dirname(os.path.dirname(__file__)), "data")
_TABLES = os.path.join(DATA, "tables.jsonl")
MOST_BYTES = 16 << 20  # a GPU file or a calibration has a few thousand bytes


def read_bytes(path: str | PathLike[str], advice: str = "", most: int = MOST_BYTES) -> bytes:
    """Read a whole file of at most `most` bytes.

    Raises UsageError, which ends in `advice` (what to give instead), for a file that cannot be read or is longer, and
    for anything that is not a regular file: reading a pipe may never return, and reading a device may never end.
    """
    name, hint = fspath(path), advice and f": {advice}"
    try:
        mode = os.stat(name).st_mode
        if not S_ISREG(mode):
            kind = "a folder" if S_ISDIR(mode) else "a device, a pipe or a socket"
            raise UsageError(f"cannot read {name} (it is {kind}, not a regular file){hint}")
        with open(name, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"cannot read {name} ({getattr(error, 'strerror', None) or error}){hint}") from None
    if len(data) > most:
        raise UsageError(f"cannot read {name} (it is longer than {most:,} bytes){hint}")
    return data


def read_toml(*path: str) -> dict[str, Any]:
    """Read the TOML document at the joined parts of `path`. Raises UsageError where there is none."""
    import tomllib  # here because not every command reads one

    name = os.path.join(*path)
    try:
        return tomllib.loads(read_bytes(name).decode())
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not a text file: a GPU file is TOML in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from None


def read_table(path: str) -> dict[str, Any]:
    """The document of one of the package's TOML files, by its path in `DATA`, such as gpus/t4.toml."""
    document: dict[str, Any] = json.loads(_tables()[path])
    return document


@cache
def _tables() -> dict[str, str]:
    """The package's TOML files by path, as JSON; only those that are asked for are parsed."""
    lines = read_bytes(_TABLES).decode().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def tables() -> str:
    """What `data/tables.jsonl` has to hold: a line per TOML file, its path and its document."""
    folders = ((os.path.relpath(folder, DATA), sorted(names)) for folder, _, names in sorted(os.walk(DATA)))
    paths = [
        os.path.normpath(f"{folder}/{name}") for folder, names in folders for name in names if name.endswith(".toml")
    ]
    write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return "".join(f"{path} {write(read_toml(DATA, path))}\n" for path in paths)


if __name__ == "__main__":
    with open(_TABLES, "w", encoding="utf-8") as file:
        file.write(tables())

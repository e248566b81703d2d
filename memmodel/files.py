"""Read files that users name: regular files of a bounded size, with one clear error for anything else."""

import os
from os import PathLike, fspath
from stat import S_ISDIR, S_ISREG
from typing import Any

from memmodel.errors import UsageError

DATA = os.path.join(os.path.dirname(__file__), "data")  # pathlib takes longer to import than a GPU to read
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

"""Finding calibrations: those shipped for a GPU, those made on this machine, and files that the user names."""

import json
import os
from functools import cache
from os import PathLike, fspath

from memmodel.base.files import DATA, read_bytes
from memmodel.timing.calibration import Calibration, calibration_of

_SHIPPED = os.path.join(DATA, "calibrations")
HOME = "MEMMODEL_HOME"  # environment variable: the folder of a user's calibrations and runs


@cache
def community(gpu_id: str) -> Calibration | None:
    """The shipped calibration of a GPU, fitted to other people's runs; None where there is none."""
    path = os.path.join(_SHIPPED, f"{gpu_id}.json")
    return calibration_of(json.loads(read_bytes(path))) if os.path.exists(path) else None


def read_calibration(path: str | PathLike[str]) -> Calibration:
    """Read a user's calibration, a JSON file.

    Raises UsageError that names the file, the constant, what was given and what was expected.
    """
    from memmodel.timing.schema import check_document  # msgspec is slow to import, and shipped files need no check

    name = fspath(path)
    document = check_document(read_bytes(name, "make one with `memmodel calibrate`"), name)
    return calibration_of(document)


def local(gpu_id: str) -> Calibration | None:
    """The calibration that was made on this machine for a GPU (or "cpu"); None where there is none."""
    path = local_path(gpu_id)
    return read_calibration(path) if os.path.exists(path) else None


def local_path(gpu_id: str) -> str:
    """The file that `memmodel calibrate` writes and `--gpu local` reads."""
    return os.path.join(home(), "calibrations", f"{gpu_id}.json")


def home() -> str:
    """The user's folder: $MEMMODEL_HOME, or memmodel in the system's folder for application data."""
    given = os.environ.get(HOME)
    if given:
        return given
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "memmodel")


def shipped_ids() -> list[str]:
    """GPUs with a shipped calibration."""
    return [name.removesuffix(".json") for name in sorted(os.listdir(_SHIPPED)) if name.endswith(".json")]

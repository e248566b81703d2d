"""Saving a calibration: whole or not at all."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from memmodel.base.errors import UsageError
from memmodel.timing import Calibration


def check_writable(path: str) -> None:
    """Raises UsageError where a file at `path` could not be written: before a minute is spent on measuring."""
    if Path(path).is_dir():
        raise UsageError(f"cannot write {path}: it is a folder, name a file in it with -o")
    try:
        with tempfile.TemporaryFile(dir=_folder(path)):
            pass
    except OSError as error:
        raise _failed(path, error) from error


def save(calibration: Calibration, path: str) -> None:
    """Write a calibration's file. What was there is replaced only once the new one is whole. Raises UsageError."""
    text = json.dumps(calibration.to_dict(), indent=2, ensure_ascii=False) + "\n"
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=_folder(path), prefix=".calibration-", suffix=".tmp")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()


def _folder(path: str) -> Path:
    """The folder of a file, made where it is not there."""
    folder = Path(path).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _failed(path: str, error: OSError) -> UsageError:
    return UsageError(f"cannot write {path} ({error.strerror}): give another place with -o FILE")

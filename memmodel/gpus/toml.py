"""Reading TOML, with one clear error for what cannot be read."""

import os.path
from typing import Any

from memmodel.errors import UsageError

DATA = os.path.join(os.path.dirname(os.path.dirname(__file__)), "data")  # pathlib is slow to import


def read_toml(*path: str) -> dict[str, Any]:
    """Read the document at the parts of `path`. Raises UsageError when it cannot be opened or is not TOML."""
    import tomllib

    name = os.path.join(*path)
    try:
        with open(name, encoding="utf-8") as file:
            return tomllib.loads(file.read())
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not a text file: a GPU file is TOML in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not valid TOML: {error}") from error

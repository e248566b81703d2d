"""Reading TOML, with one clear error for what cannot be read."""

from pathlib import Path
from typing import Any

from memmodel.errors import UsageError

DATA = Path(__file__).parents[1] / "data"


def read_toml(path: Path) -> dict[str, Any]:
    """Read the document at `path`. Raises UsageError when it cannot be opened or is not TOML."""
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file: a GPU file is TOML in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error

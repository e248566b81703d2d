"""The function that `PACKAGE.MODULE:FUNCTION` or `FILE.py:FUNCTION` names."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from memmodel.base.errors import UsageError, unknown
from memmodel.events.origin import is_library


def target(text: str) -> Any:
    """The object. Importing runs the module. Raises UsageError for what cannot be found, naming the nearest."""
    if text.endswith(".py"):
        raise UsageError(
            f"{text}: name a function of it, {text}:step; a script whose statements train as it is run needs its "
            "step in a function of the batch, and the rest below `if __name__ == '__main__'`"
        )
    module_name, colon, path = text.rpartition(":")
    if not colon or not module_name or not path:
        raise UsageError(f"{text!r}: expected PACKAGE.MODULE:FUNCTION, such as model:attention, or FILE.py:FUNCTION")
    found: Any = _module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            names = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")]
            if not names:
                raise UsageError(f"{text}: there is no {name}, nor anything else to call, in {text.rpartition('.')[0]}")
            raise unknown(f"function in {module_name}", name, names)
        found = getattr(found, name)
    if not callable(found):
        raise UsageError(f"{text} is {type(found).__name__}, not a function or a module")
    return found


class Script:
    """A function by its place, whose file is run anew at each `load`: as each rank would, within the trace."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.__qualname__ = text.rpartition(":")[2]

    def __call__(self) -> Any:
        """A script is called by nobody: what it loads is."""
        raise NotImplementedError

    def load(self) -> Any:
        """The function, of a fresh import of its module and of what that imports of the user's own."""
        before = set(sys.modules)
        module = self.text.rpartition(":")[0]
        mine = Path(module).stem if module.endswith(".py") else module
        kept = sys.modules.pop(mine, None)
        try:
            return target(self.text)
        finally:
            for name in set(sys.modules) - before:
                if _is_users(sys.modules[name]):
                    del sys.modules[name]
            if kept is not None:
                sys.modules[mine] = kept


def _is_users(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file) and not is_library(file) and not module.__name__.startswith("memmodel.")


def _module(name: str) -> Any:
    if not name.endswith(".py") and Path(name).is_file():
        raise UsageError(f"{name} is no Python file: expected PACKAGE.MODULE:FUNCTION or FILE.py:FUNCTION")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return _file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise unknown("module", name, _modules_here()) from error
        raise UsageError(f"{name} cannot be imported: it imports {error.name}, which is not installed") from error
    # SystemExit too, by which a script ends when it is imported.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if isinstance(error, SyntaxError):
            place = f" at {error.filename}, line {error.lineno}" if error.filename else ""
            raise UsageError(f"{name} cannot be imported: {type(error).__name__}{place}: {error.msg}") from error
        if name.endswith(".py") and "relative import" in str(error):
            raise UsageError(
                f"{name} cannot be imported: {error}; name it as PACKAGE.MODULE:FUNCTION from the folder of PACKAGE"
            ) from error
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        place = f" at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        raise UsageError(f"{name} cannot be imported: it raises {type(error).__name__}{place}: {error}") from error


def _file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _modules_here() -> list[str]:
    """Modules in the current folder and its packages, one level down."""
    found = [path.stem for path in Path().glob("*.py")]
    found += [f"{path.parent.name}.{path.stem}" for path in Path().glob("*/*.py") if path.stem != "__init__"]
    return found or ["none in this folder"]

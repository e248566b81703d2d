"""Read a pickle of plain data from a source that is not trusted.

A pickle is a program for a stack machine. Only the instructions that build lists, dicts, tuples of whole numbers and
scalars are let through, as the `pickle` module writes them for a snapshot; they are checked before the first runs.
"""

import io
import pickle
import pickletools
import stat
from pathlib import Path
from typing import Any, NoReturn

from memmodel.errors import UsageError

MAX_BYTES = 2 << 30
MAX_OPCODES = 50_000_000  # a snapshot has about 50 for each of its events
MAX_CONTAINERS = 5_000_000  # an empty list is one byte of the file and 56 of memory; a snapshot has 2 for each event

_ADVICE = "give the file that torch.cuda.memory._dump_snapshot wrote"
_INTEGERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1"})
_CONTAINERS = frozenset({"EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PLAIN = (
    _INTEGERS
    | _CONTAINERS
    | {"PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
    | {"NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"APPEND", "APPENDS", "SETITEM", "SETITEMS"}
)


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every name and reference; after the scan there is none left to refuse."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """No class or function is ever looked up."""
        raise pickle.UnpicklingError(f"names {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Nothing outside the file is ever loaded."""
        raise pickle.UnpicklingError("refers to an object outside the file")


def load_plain(path: str) -> Any:
    """The plain data in a pickle. Raises UsageError for anything else, before any of it is built."""
    data = _bytes(path)
    try:
        _scan(path, data)
        return _PlainUnpickler(io.BytesIO(data)).load()
    except UsageError:
        raise
    except Exception as error:  # damaged bytes fail in as many ways as the machine has instructions
        raise UsageError(f"{path} is damaged or no pickle ({_reason(error)}): {_ADVICE}") from None


def _bytes(path: str) -> bytes:
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would have no end
            raise UsageError(f"{path} is no regular file: {_ADVICE}")
        if status.st_size > MAX_BYTES:
            raise UsageError(f"{path} has {status.st_size} bytes, more than {MAX_BYTES}: record fewer events")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror or error}): {_ADVICE}") from None
    if not data:
        raise UsageError(f"{path} is empty: {_ADVICE}")
    return data


def _scan(path: str, data: bytes) -> None:
    """Hold every instruction to what plain data needs.

    Tuples hold whole numbers only, since hashing deeply nested ones overflows the interpreter's stack; a memo's index
    is at most the number of instructions before it, since the memo is an array of that length.
    """
    integers = containers = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if name in _INTEGERS:
            integers += 1
            continue
        if name == "FRAME":  # a mark in the file between any two instructions, also those of one tuple
            continue
        if name not in _PLAIN:
            raise UsageError(f"{path} holds the pickle instruction {name}, which plain data does not need: {_ADVICE}")
        if name in _CONTAINERS:
            containers += 1
            if integers < _TUPLES.get(name, 0):
                raise UsageError(f"{path} holds a tuple of other things than whole numbers: {_ADVICE}")
        elif name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise UsageError(f"{path} reserves {argument} memo places after {count} instructions: {_ADVICE}")
        integers = 0
        if count >= MAX_OPCODES or containers > MAX_CONTAINERS:
            limit = f"{MAX_OPCODES} instructions or {MAX_CONTAINERS} containers"
            raise UsageError(f"{path} holds more than {limit}: record fewer events")


def _reason(error: Exception) -> str:
    """The first line of what went wrong, short enough for a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:80].rstrip(".")

"""Read a pickle of plain data from an untrusted source.

A pickle is a program for a stack machine. Only instructions that build lists, dicts, tuples of whole numbers and
scalars are allowed, in the form in which `pickle` writes a snapshot; all are checked before the first one runs.
"""

import gc
import io
import pickle
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from memmodel.base.errors import UsageError

MAX_BYTES = 1 << 29  # of the file, unpacked
MAX_INSTRUCTION_BYTES = 1 << 28  # without texts; each byte makes at most 12 of memory, and an event has about 100
MAX_CONTAINERS = 5_000_000  # an empty list is one byte of the file and 56 of memory; a snapshot has 2 for each event

_ADVICE = "give the file that torch.cuda.memory._dump_snapshot wrote"
_UNPACKED_BY = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "lzma", b"BZh": "bz2"}  # first bytes -> module
_PACKED = {b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z", b"\x04\x22\x4d\x18": "lz4"}

# Instructions of fixed length as one pattern: going through them one by one, as pickletools does, takes five times as
# long as unpickling. A tuple is let through right behind its whole numbers only: hashing deeply nested tuples would
# overflow the interpreter's stack.
_CONTAINERS = b"]})"  # EMPTY_LIST, EMPTY_DICT, EMPTY_TUPLE
_LENGTHS = b"|".join(b"\\x%02x.{%d}" % (length, length) for length in (6, 7, 5, 8, 4, 3, 2, 1, 9, *range(10, 17), 0))
_WHOLE = rb"(?>K.|M..|J.{4}|\x8a(?>" + _LENGTHS + rb"))(?>\x95.{8})?"  # BININT1, BININT2, BININT, LONG1; FRAME
_WHOLES = b"%b(?>\\x85|%b(?>\\x86|%b\\x87))?" % (_WHOLE, _WHOLE, _WHOLE)  # and TUPLE1, TUPLE2, TUPLE3


def _run(containers: bytes) -> re.Pattern[bytes]:
    """The pattern of instructions that make nothing larger than a number, or `containers`."""
    single = b"(N\x88\x89\x94aesu" + containers  # MARK, NONE, NEWTRUE, NEWFALSE, MEMOIZE, APPEND(S), SETITEM(S)
    # LONG_BINGET first and by pairs, as stacks are full of it; BINGET, BINPUT; BINFLOAT, FRAME, PROTO.
    pattern = rb"(?:j....j....|j....|[hq].|[%b]++|%b|G.{8}|\x95.{8}|\x80.)*+"
    return re.compile(pattern % (re.escape(single), _WHOLES), re.DOTALL)


_RUN, _RUN_WITH_CONTAINERS = _run(b""), _run(_CONTAINERS)
_TEXT_LENGTHS = {0x8C: 1, 0x58: 4, 0x8D: 8}  # SHORT_BINUNICODE, BINUNICODE, BINUNICODE8 -> bytes of the text's length
_LONG_BINPUT, _STOP, _TUPLES = ord("r"), ord("."), b"\x85\x86\x87"


class _PlainUnpickler(pickle.Unpickler):
    """A second line of defence: it refuses every name and reference, which the scan has ruled out already."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """No class or function is ever looked up."""
        raise pickle.UnpicklingError(f"names {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Nothing outside the file is ever loaded."""
        raise pickle.UnpicklingError("refers to an object outside the file")


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection: nothing that a snapshot makes is garbage, and looking takes as long as building."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@uncollected()
def load_plain(path: str) -> Any:
    """The plain data in a pickle, which may be packed by gzip, xz or bzip2.

    Raises UsageError for anything else, before any of it is built.
    """
    data = _bytes(path)
    _scan(path, data)
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # damaged bytes fail in as many ways as the machine has instructions
        raise _damaged(path, error) from None


def _bytes(path: str) -> bytes:
    """The unpacked bytes of a regular file, at most so many."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would have no end
            raise UsageError(f"{path} is no regular file: {_ADVICE}")
        with open(path, "rb") as file:
            start = file.read(8)
        for first, packer in _PACKED.items():
            if start.startswith(first):
                raise UsageError(f"{path} is packed by {packer}: unpack it first")
        packed = next((module for first, module in _UNPACKED_BY.items() if start.startswith(first)), None)
        with import_module(packed).open(path) if packed else open(path, "rb") as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror or error}): {_ADVICE}") from None
    except Exception as error:  # each decompressor raises its own errors
        raise _damaged(path, error) from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} holds more than {MAX_BYTES} bytes: record fewer events")
    if not data:
        raise UsageError(f"{path} is empty: {_ADVICE}")
    return data


def _scan(path: str, data: bytes) -> None:
    """Hold every instruction to what plain data needs, and their number to what a snapshot needs.

    A memo's index is at most the number of bytes before it, since the memo is an array of that length.
    """
    position = instructions = containers = 0
    # Most files have too few of these bytes, wherever they stand, for their containers to be worth counting.
    few = sum(data.count(code) for code in _CONTAINERS) <= MAX_CONTAINERS
    end, match = len(data), (_RUN_WITH_CONTAINERS if few else _RUN).match
    while (run := match(data, position)) is not None and (at := run.end()) < end:
        code = data[at]
        instructions += at + 1 - position
        containers += code in _CONTAINERS
        if instructions > MAX_INSTRUCTION_BYTES or containers > MAX_CONTAINERS:
            limit = f"{MAX_INSTRUCTION_BYTES} bytes of instructions or {MAX_CONTAINERS} containers"
            raise UsageError(f"{path} holds more than {limit}: record fewer events")
        if code == _STOP:
            return
        position = at + 1
        if code in _TEXT_LENGTHS:
            length = data[position : position + _TEXT_LENGTHS[code]]
            position = min(position + len(length) + int.from_bytes(length, "little"), end)
        elif code == _LONG_BINPUT:
            index = int.from_bytes(data[position : position + 4], "little")
            if index > position:
                raise UsageError(f"{path} reserves {index} memo places after {position} bytes: {_ADVICE}")
            position += 4
        elif code not in _CONTAINERS:
            raise _refused(path, data, at)
    raise _damaged(path, "it ends early")


def _refused(path: str, data: bytes, at: int) -> UsageError:
    """Why the instruction at a position stops the scan."""
    import pickletools  # its table of names is needed for errors only

    if data[at] in _TUPLES:
        return UsageError(f"{path} holds a tuple of other things than whole numbers: {_ADVICE}")
    if (longer := _RUN.match(data[at : at + 1] + bytes(8))) is not None and longer.end():
        return _damaged(path, "it ends early, or holds a number of more than 16 bytes")
    name = next((opcode.name for opcode in pickletools.opcodes if opcode.code == chr(data[at])), None)
    if name is None:
        return _damaged(path, f"byte {at} is no instruction")
    return UsageError(f"{path} holds the pickle instruction {name}, which plain data does not need: {_ADVICE}")


def _damaged(path: str, error: Exception | str) -> UsageError:
    """The error for bytes that are no pickle; the reason is cut to what fits into a sentence."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:80].rstrip(".")
    printable = "".join(letter if letter.isprintable() else "?" for letter in reason)
    return UsageError(f"{path} is damaged or no pickle ({printable}): {_ADVICE}")

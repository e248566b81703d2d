"""Check the files that users give (GPU files, calibrations, ledgers) against a msgspec type, with readable errors.

msgspec takes longer to import than a prediction to compute, so that only readers of user files import this module;
tests check the shipped files.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, inspect

from memmodel.base.errors import UsageError, shortened, unknown

T = TypeVar("T")

# No size, rate or time comes near these bounds, and within them no product or quotient of a few numbers overflows.
LEAST, MOST = 1e-9, 1e18
Number = Annotated[float, Meta(ge=LEAST, le=MOST)]
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
Text = Annotated[str, Meta(pattern=_PRINTABLE, max_length=10_000)]
Name = Annotated[str, Meta(pattern=_PRINTABLE, max_length=100)]  # stands in every line about what it names

_WORDS = {
    "float": f"a number from {LEAST:g} to {MOST:g}",
    "int": "a whole number",
    "str": "text",
    "object": "a table",
    "array": "a list",
    "bool": "true or false",
}


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """The base of the formats: a key that a format does not have is an error."""


def checked(document: object, kind: type[T], where: str) -> T:
    """Convert plain data to a `kind`; `where` is the file's name in errors.

    Raises UsageError that names the file, the key, what was given and what was expected.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _error(str(error), document, kind, where) from None


def decoded(text: bytes, kind: type[T], where: str) -> T:
    """Read JSON as a `kind`. Raises UsageError as `checked` does, and for text that is not JSON."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}") from None
    return checked(document, kind, where)


def _error(message: str, document: Any, kind: Any, where: str) -> UsageError:
    """Word an error such as "Expected `float`, got `str` - at `$.launch.value`" for people."""
    problem, _, place = message.partition(" - at ")
    path = re.sub(r"^.*`\$\.?|`$", "", place)
    of_path = f" of {path}" if path else ""
    if found := re.search("unknown field `(.*)`", problem):
        return unknown(f"key{of_path} in {where}", found[1], _names(inspect.type_info(kind)))
    if found := re.search("required field `(.*)`", problem):
        return UsageError(f"{where}: the {found[1]}{of_path} is missing")
    if found := re.search("Invalid .*value '(.*)'", problem):
        return unknown(f"{path} in {where}", found[1], _literals(inspect.type_info(kind)))
    if not problem.startswith("Expected"):  # raised by a format's own __post_init__
        return UsageError(f"{where}: {path}{': ' if path else ''}{problem}")
    given = "" if "[...]" in path or "`key`" in place else f" is {shortened(_at(path, document))},"
    return UsageError(f"{where}: {path or 'the whole'}{given} expected {_expected(problem)}")


def _expected(problem: str) -> str:
    """msgspec's expectation in plain words: "a number from 1e-09 to 1e+18 or a table"."""
    if "regex" in problem:
        return "text without control characters"
    without = re.sub(r"^Expected |, got .*|(?<=`float`) [<>]=? .*", "", problem)
    return re.sub("`([^`]*)`", lambda found: _alternatives(found[1]), without)


def _alternatives(types: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | ") if name != "null")


def _at(path: str, document: Any) -> Any:
    """The value at a path such as "measured[0].TFLOPS"."""
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        document = document[int(index)] if index else document[key]
    return document


def _types(info: inspect.Type) -> Iterator[inspect.Type]:
    """A type and the types that it holds."""
    yield info
    inner: list[inspect.Type] = []
    if isinstance(info, inspect.StructType):
        inner = [field.type for field in info.fields]
    elif isinstance(info, inspect.UnionType):
        inner = list(info.types)
    elif isinstance(info, inspect.ListType | inspect.VarTupleType):
        inner = [info.item_type]
    elif isinstance(info, inspect.DictType):
        inner = [info.key_type, info.value_type]
    for part in inner:
        yield from _types(part)


def _names(info: inspect.Type) -> list[str]:
    """The keys of a format and of the tables in it."""
    structs = [found for found in _types(info) if isinstance(found, inspect.StructType)]
    return list(dict.fromkeys(field.encode_name for found in structs for field in found.fields))


def _literals(info: inspect.Type) -> list[str]:
    """The values of a format's `Literal` types."""
    return [str(value) for t in _types(info) if isinstance(t, inspect.LiteralType) for value in t.values]

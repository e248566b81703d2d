"""Tables of JSON keys in the documentation, held to the JSON that is printed: every key of either, and their types."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

ROW = re.compile(r"^\| `(?P<key>[^`]+)` \| (?P<type>[^|]+) \| (?P<meaning>[^|]+) \|$", re.MULTILINE)
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "str": (str,),
    "bool": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
}
Rows = dict[str, str]  # key -> type


def rows_of(text: str) -> Rows:
    """The keys of the tables in a text."""
    return {match["key"]: match["type"] for match in ROW.finditer(text)}


def leaves(value: Any, rows: Rows, whole: Collection[str] = (), path: str = "") -> Iterator[tuple[str, Any]]:
    """(key as documented, value) of everything in a JSON document that is not just a container of keys."""
    if path in rows:
        yield path, value
    if path in whole:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            known = {row[len(path) :].lstrip(".") for row in rows if row.startswith(path)}
            varying = next((m[0] for k in known if (m := re.match(r"<\w+>", k))), key)
            yield from leaves(inner, rows, whole, f"{path}.{varying}".lstrip("."))
    elif isinstance(value, list) and not rows.get(path, "").startswith("list"):
        for inner in value:
            yield from leaves(inner, rows, whole, f"{path}[]")
    elif path not in rows:
        yield path, value


def agrees(value: Any, kind: str) -> bool:
    """Whether a value is of a documented type."""
    if kind.startswith("list of "):
        one, _, rest = kind.removeprefix("list of ").partition(" or ")
        return value is None if rest and value is None else all(agrees(x, one) for x in value)
    types = tuple(t for name in kind.split(" or ") for t in TYPES[name])
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def problems(documents: Iterable[Any], rows: Rows, whole: Collection[str] = ()) -> list[str]:
    """What the page and the documents disagree about; `whole`: keys of objects whose own keys are not documented."""
    found: dict[str, str] = {}
    seen = set()
    for document in documents:
        for key, value in leaves(document, rows, whole):
            seen.add(key)
            if key not in rows:
                found[key] = f"{key} is printed and not documented"
            elif not agrees(value, rows[key]):
                found[key] = f"{key} is {value!r} and documented as {rows[key]}"
    return [*found.values(), *(f"{key} is documented and not printed" for key in rows if key not in seen)]

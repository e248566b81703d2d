"""Output where the encoding has no ·, ² or ≥, as in the C locale: the same in ASCII."""

import codecs
import unicodedata
from typing import TextIO

_BARS = dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True))
_PLAIN = _BARS | {
    "·": "*",
    "≥": ">=",
    "≤": "<=",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{EN DASH}": "-",
    "√": "sqrt",
    "▼": "v",
    "✖": "x",
    "…": "...",
}


def make_printable(*streams: TextIO) -> None:
    """Let streams write every character, in ASCII those that their encoding lacks."""
    codecs.register_error("plain", _replace)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(plain, error.object[error.start : error.end])), error.end


def plain(character: str) -> str:
    """One character in ASCII: "^2" for "²", "?" where nothing is like it."""
    if character in _PLAIN:
        return _PLAIN[character]
    raised = "^" if unicodedata.decomposition(character).startswith("<super>") else ""
    return raised + (unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?")

"""The exception for wrong use, whose message says what was given, what was expected and what to try."""

from collections.abc import Iterable
from typing import Any

_LONGEST_WORD = 300  # a path may be as long
_LONGEST = 1000


class UsageError(ValueError):
    """Wrong input. Its message is one sentence for a person; the command line prints it and exits with status 2.

    It is cut where it is very long, or a word is: that is what was given.
    """

    def __str__(self) -> str:
        words = str(self.args[0]).split(" ")
        text = " ".join([word if len(word) <= _LONGEST_WORD else f"{word[:80]}..." for word in words])
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 3 :]}"


def choice(kind: str, given: object, valid: Iterable[str], hint: str = "") -> str:
    """The `valid` name that `given` matches, in any case. Raises the UsageError of `unknown` for others."""
    names = list(valid)
    found = {name.casefold(): name for name in names}.get(str(given).strip().casefold())
    if found is None:
        raise unknown(kind, given, names, hint)
    return found


def unknown(kind: str, given: object, valid: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that is not in `valid`; it lists the nearest names, or all if there are few."""
    import difflib  # here because only a mistake needs it, and every command starts by importing this module

    names = sorted(valid)
    folded = {name.casefold(): name for name in names}
    near = [folded[n] for n in difflib.get_close_matches(str(given).casefold(), folded, n=4, cutoff=0.5)]
    if near:
        advice = f"did you mean {' or '.join(near)}?"
    elif len(names) <= 12:
        advice = f"choose one of {', '.join(names)}"
    else:
        advice = f"there are {len(names)}, for example {', '.join(names[:3])}"
    return UsageError(f"unknown {kind} {shortened(str(given))}: {advice}{f' ({hint})' if hint else ''}")


def check_kind(name: str, value: object, kind: Any, example: str = "") -> None:
    """Raise UsageError for a value that is neither of the kind (or kinds) nor None; `example` says what to give."""
    if not isinstance(value, kind | None):
        expected = f"a memmodel {kind.__name__}, or none" if not example else f"{example}, or none"
        raise UsageError(f"{name} {shortened(value)}: expected {expected}")


def shortened(value: object, most: int = 80) -> str:
    """The `repr` of a value, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."

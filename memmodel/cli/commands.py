"""Commands and their options as data, and the reading of plain command lines.

click takes longer to import than most answers to compute. So a command is declared here, and a line that needs no more
than a table of its options is read here too; all else (help, errors, completion, arguments) is left to the click
commands that `memmodel.cli.clicked` makes of the same declarations.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from memmodel.base.errors import UsageError
from memmodel.base.units import parse_bytes, parse_number, parse_size

COMMANDS = {
    "predict": "Predict memory, work and time of attention, and what limits it.",
    "model": "Predict a whole model's training step or serving, and what fills its memory.",
    "compare": "Compare GPUs: fits, expected time, tokens a second and cost, the best first.",
    "max": "Find the largest size that fits, and the first that does not.",
    "formulas": "Print closed forms of memory and work, derived from the code that runs.",
    "gpus": "List GPUs, their values and the source of each value.",
    "models": "List the models that --like takes.",
    "timeline": "Draw what is in memory through one step.",
    "roofline": "Draw every kernel under the GPU's ceilings.",
    "frontier": "Draw the longest sequence that fits, by batch or heads.",
    "report": "Write a prediction as one HTML or Markdown file, with its pictures.",
    "explore": "Write one interactive page that computes predictions by itself.",
    "sweep": "Evaluate many configurations at once, as CSV or JSON.",
    "trace": "Trace your own PyTorch function: its memory as a formula and by line.",
    "replay": "Read a CUDA memory snapshot, and replay it under other settings.",
    "accuracy": "Compare the model with every run on record.",
    "validate": "Run attention for real, and compare with what was predicted.",
    "calibrate": "Measure this machine's rates, for expected times.",
    "completion": "Print the shell's completion script.",
}

Function = Callable[..., Any]
Decorator = Callable[[Function], Any]


class Kind(NamedTuple):
    """A kind of values: its name, and the function that reads one from (text, option) or raises UsageError."""

    name: str
    read: Callable[[str, str], Any]


SIZE = Kind("size", parse_size)  # a whole number, written 4096, 16k (= 16384) or 1M (= 1048576)
NUMBER = Kind("number", parse_number)
BYTES = Kind("bytes", parse_bytes)  # an amount of memory: 40GiB (= 40 x 2**30 bytes), 40GB (= 40 x 10**9), or bytes


class Parameter(NamedTuple):
    """An option or argument of a command.

    Attributes:
        kind: "option" or "argument".
        words: as click.option takes them: its spellings, and perhaps the name of its value.
        settings: those of click.option. `type` may be a `Kind`. `names` says where the valid names are, "module:table":
            the shell completes them, and a help lists them in place of {names}. Help lists the option below a `title`.
    """

    kind: str
    words: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its value: the word without dashes, else its longest spelling."""
        plain = [word for word in self.words if not word.startswith("-")]
        longest = max(self.words, key=len).partition("/")[0]
        return plain[0] if plain else longest.lstrip("-").replace("-", "_")

    def default(self) -> Any:
        """Its value where it is not given."""
        if self.settings.get("multiple"):
            return ()
        default = self.settings.get("default", False if self.settings.get("is_flag") else None)
        return self.read(default) if isinstance(default, str) else default

    def read(self, text: str) -> Any:
        """The value of a text. Raises ValueError, or UsageError, for one that has none."""
        kind = self.settings.get("type", str)
        return kind.read(text, self.words[0]) if isinstance(kind, Kind) else kind(text)


class Option(Parameter):
    """An option that commands share."""

    __slots__ = ()

    def __new__(
        cls, flags: str, what: Any, text: str, names: str = "", title: str = "Options", **settings: Any
    ) -> "Option":
        """Make an option.

        Args:
            flags: as click takes them, with spaces between: "--algorithm -a algorithms".
            what: the type of its value: `bool` for a flag; text is what help calls the value.
            text: the help.
            names: where the valid names are, see `Parameter`.
            title: the heading under which help lists it.
            **settings: of click's options.
        """
        kind = {"is_flag": True, "default": None} if what is bool else {"type": what}
        kind = {"metavar": what} if isinstance(what, str) else kind
        named = {"names": names} if names else {}
        return super().__new__(
            cls, "option", tuple(flags.split()), {"help": text, "title": title, **named, **kind, **settings}
        )


class Command:
    """A command: its function, its parameters, and examples for its help."""

    def __init__(self, name: str, function: Function, examples: Sequence[str]) -> None:
        self.name, self.function, self.examples = name, function, examples
        self.parameters: list[Parameter] = function.__dict__.get("parameters", [])[::-1]

    def values(self, words: Iterable[str]) -> dict[str, Any] | None:
        """The arguments of the function for a plain command line; None for one that click has to read."""
        if any(parameter.kind == "argument" for parameter in self.parameters):
            return None
        options = {word: one for one in self.parameters for word in one.words if word.startswith("-")}
        found = {one.name: one.default() for one in self.parameters}
        left = iter(words)
        # Whatever is not plain (abbreviations, -h, a flag with a value, a missing value) is click's to judge.
        for word in left:
            spelling, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
            option = options.get(spelling)
            if option is None or (equals and option.settings.get("is_flag")):
                return None
            if option.settings.get("is_flag"):
                found[option.name] = True
                continue
            text = value if equals else next(left, "")
            if not text or (text.startswith("-") and not equals):  # an option's value was forgotten, perhaps
                return None
            try:
                read = option.read(text)
            except ValueError as error:
                if isinstance(error, UsageError):
                    raise
                return None
            found[option.name] = (*found[option.name], read) if option.settings.get("multiple") else read
        return found


def subcommand(name: str, *examples: str) -> Callable[[Function], Command]:
    """Make a function the command `name`, with examples at the end of its help."""
    return lambda function: Command(name, function, examples)


def option(*words: str, **settings: Any) -> Decorator:
    """Give a command an option. See `Parameter` for the settings."""
    return _parameter("option", words, settings)


def argument(*words: str, **settings: Any) -> Decorator:
    """Give a command an argument. See `Parameter` for the settings."""
    return _parameter("argument", words, settings)


def _parameter(kind: str, words: tuple[str, ...], settings: dict[str, Any]) -> Decorator:
    def decorate(function: Function) -> Function:
        function.__dict__.setdefault("parameters", []).append(Parameter(kind, words, settings))
        return function

    return decorate

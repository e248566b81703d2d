"""Errors of dynamo, AOTAutograd and Inductor as one sentence with the user's line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from memmodel.base.errors import UsageError
from memmodel.tracer.private.compiler import errors, leaves_to_eager

_PLACE = re.compile(r'File "([^"]+)", line (\d+), in ')
_INNER = re.compile(r": got (?P<what>\w+\(.*\))$", re.MULTILINE)  # dynamo's words for an operator's own error


@contextmanager
def compiler_errors_explained() -> Iterator[None]:
    """Within, an error of dynamo, AOTAutograd or Inductor becomes a UsageError that names the compiler."""
    try:
        yield
    except errors() as error:
        raise _explained(error) from error


def _explained(error: BaseException) -> UsageError:
    """The compiler's error as one sentence with the user's line; a UsageError inside it as it is."""
    causes = list(_causes(error))
    own = next((cause for cause in causes if isinstance(cause, UsageError)), None)
    if own is not None:
        return own
    text = str(error)
    places = _PLACE.findall(text)
    where = " at {}, line {}".format(*places[-1]) if places else ""
    inner = _INNER.search(text)
    said = inner["what"] if inner else f"{type(causes[-1]).__name__}: {first_line(str(causes[-1]))}"
    if "UsageError: " in said:
        return UsageError(said.partition("UsageError: ")[2] + where)
    if leaves_to_eager(causes[-1]):
        return UsageError(
            f"torch.compile leaves the code to eager PyTorch on this GPU ({causes[-1]}): trace it without compiled"
        )
    return UsageError(
        f"torch.compile cannot compile the code{where} ({said}): trace it without compiled, or leave this part to "
        "eager code with torch.compiler.disable"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__


def first_line(text: str) -> str:
    """The first line of a text that may have none."""
    return text.strip().splitlines()[0] if text.strip() else ""

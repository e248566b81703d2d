"""Errors raised while the user's code runs, as one sentence with the line of their code."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from memmodel.base.errors import UsageError
from memmodel.events.origin import is_library
from memmodel.tracer.watch.watcher import is_users, run_users_code

_SOURCE = re.compile(r"^/\S+:\d+: ")  # where PyTorch was built
_NEEDS_DATA = ("DataDependentOutputException", "GuardOnDataDependentSymNode", "DynamicOutputShapeException")

_ASKED = (".numpy()", "FakeTensor.__format__", "not Given")  # `watch.values.Given` stands for a value


@contextmanager
def users_errors_explained() -> Iterator[None]:
    """Within, every exception becomes a UsageError that says where in the user's code it came from."""
    try:
        yield
    except UsageError as error:
        place = _place(error)
        raise UsageError(f"{error}{f' ({place})' if place else ''}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    place = _place(error)
    where = f" at {place}" if place else ""
    kind, text = type(error).__name__, str(error).strip().splitlines()
    first = _SOURCE.sub("", text[0].strip().rstrip(".")) if text else ""
    if "_pack_padded_sequence" in first:
        return (
            f"the code packs sequences by lengths that a trace does not have{where}: hand the layer the padded batch, "
            "which is the most that it takes"
        )
    if kind in _NEEDS_DATA or any(words in first for words in _ASKED):
        return (
            f"the code asks for the value of a tensor{where}: a trace has sizes but no data; take branches and sizes "
            f"from shapes or arguments instead ({first})"
        )
    if "supports_higher_order_operators" in str(error):
        return (
            f"the code calls an operator that runs functions{where}, such as cond or while_loop: these are not traced; "
            "call the branch or the loop's body that a usual run takes"
        )
    if "Cannot access storage of Sparse" in first:
        return f"the code makes a sparse tensor{where}: these have no storage of their own and are not traced"
    if "shape_env must not be None" in first:
        return (
            f"the code makes a nested tensor{where}, whose sizes a trace does not follow: hand over the rows of all "
            "sequences as one tensor, and where each begins as another"
        )
    if kind == "UnsupportedOperatorException" or "fake impl" in first or "register_fake" in str(error):
        return (
            f"an operator without a fake implementation{where} ({first}): say what it returns with "
            "torch.library.register_fake, then trace again"
        )
    if "CUDA" in first or "cuda" in first or "NVIDIA" in first:
        return (
            f"the code needs a GPU itself{where} ({kind}: {first}): a trace runs without one; leave out what only "
            "CUDA has, such as streams and torch.cuda calls"
        )
    return f"the traced code raised {kind}{where}: {first or 'no message'}"


def _place(error: BaseException) -> str:
    """File and line of the innermost frame of the user's own code, else of a library that it calls."""
    found: Any = None
    own = False
    inside = False
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code is run_users_code.__code__:
            inside = True
        elif inside and is_users(frame) and not (own and is_library(frame.f_code.co_filename)):
            found = frame.f_code.co_filename, line
            own = own or not is_library(found[0])
    return f"{found[0]}, line {found[1]}" if found else ""

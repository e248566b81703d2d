"""Pictures as files and in notebooks. The plotting library is imported when one is drawn, for it may be missing."""

from html import escape
from os import PathLike, fspath, path

from memmodel.errors import UsageError
from memmodel.shown import Drawing

KINDS = ("svg", "png")


def save(picture: Drawing, file: str | PathLike[str]) -> None:
    """Draw into a file. Raises UsageError for a name that ends in neither .svg nor .png."""
    from memmodel.report.figure import drawn

    kind = path.splitext(fspath(file))[1].lower().removeprefix(".")
    if kind not in KINDS:
        raise UsageError(f"{fspath(file)}: expected a file name that ends in .svg or .png")
    content = drawn([picture], kind)
    with open(file, "wb") as target:
        target.write(content)


def notebook(picture: Drawing) -> str:
    """An SVG, or text where matplotlib is not installed."""
    try:
        from memmodel.report.figure import drawn
    except ModuleNotFoundError:
        return f"<pre>{escape(str(picture))}</pre>"
    svg = drawn([picture], "svg").decode()
    return svg[svg.index("<svg") :]

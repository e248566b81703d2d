"""Transcripts in the documentation: found, run again, compared, and rewritten by `python tests/transcripts.py`.

A transcript is a fenced block after the comment `<!-- transcript: ARGUMENTS -->`: the command, what it prints in 80
columns and, where that is not 0, its exit status; `<!-- example: NAME -->` is the same for a file of `examples/`.
Fenced blocks of Python are run too, each file's in one namespace, in order: those with prompts are compared. All run in
a folder of their own that holds `examples` and a `snapshot.pickle`.
"""

import contextlib
import doctest
import io
import os
import re
import runpy
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "kernels" / "memmodel_kernels" / "README.md",
)
COMMAND = re.compile(r"<!-- transcript: (?P<arguments>.*?) -->\n```text\n(?P<body>.*?)```\n", re.DOTALL)
EXAMPLE = re.compile(r"<!-- example: (?P<name>\w+) -->\n```text\n(?P<body>.*?)```\n", re.DOTALL)
SESSION = re.compile(
    r"(?P<skipped><!-- not run: [^\n]*? -->\n)?```(?P<kind>pycon|python)\n(?P<body>.*?)```\n", re.DOTALL
)


def page_name(path: Path) -> str:
    """The page's path in the repository."""
    return str(path.relative_to(ROOT))


def rerun(page: str) -> str:
    """The page as it would read if every command, example and block of Python were run now."""
    namespace: dict[str, Any] = {"__name__": "page"}
    with workspace(), registries():
        page = COMMAND.sub(lambda m: _put(m, _command(m["arguments"])), page)
        page = EXAMPLE.sub(lambda m: _put(m, _example(m["name"])), page)
        return SESSION.sub(lambda m: m[0] if m["skipped"] else _put(m, _python(m["kind"], m["body"], namespace)), page)


def _put(match: re.Match[str], body: str) -> str:
    start, end = match.start("body") - match.start(), match.end("body") - match.start()
    return match[0][:start] + body + match[0][end:]


def _command(arguments: str) -> str:
    out, status = _run(arguments)
    return f"$ memmodel {arguments}\n{out}" + (f"$ echo $?\n{status}\n" if status else "")


def command_output(arguments: str) -> str:
    """What `memmodel ARGUMENTS` prints into a pipe. Raises AssertionError for a status other than 0."""
    with workspace():
        out, status = _run(arguments)
    assert status == 0, out
    return out


def _run(arguments: str) -> tuple[str, int]:
    from memmodel.cli import run

    out, words = io.StringIO(), shlex.split(arguments)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        patch.object(sys, "argv", ["memmodel", *words]),
    ):
        status = run(words)
    return out.getvalue(), status


def _example(name: str) -> str:
    path = f"examples/{name}.py"
    with patch.object(sys, "argv", [path]):
        return f"$ python {path}\n" + _printed(lambda: runpy.run_path(path, run_name="__main__"))


def _python(kind: str, body: str, namespace: dict[str, Any]) -> str:
    if kind == "pycon":
        return session(body, namespace)
    exec(compile(body, "<page>", "exec"), namespace)
    return body


def session(body: str, namespace: dict[str, Any]) -> str:
    """A session at the prompt with what it prints now."""
    lines = []
    for example in doctest.DocTestParser().get_examples(body):
        first, *more = example.source.rstrip("\n").split("\n")
        lines += [f">>> {first}\n", *(f"... {line}".rstrip() + "\n" for line in more)]
        code = compile(example.source, "<session>", "single")
        lines.append(_printed(lambda code=code: exec(code, namespace)))
    return "".join(lines)


def _printed(run: Callable[[], object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run()
    return out.getvalue()


@contextlib.contextmanager
def workspace() -> Iterator[None]:
    """A folder to run in, with the examples and a snapshot (a recorded training step) as a reader would have them."""
    from snapshot_data import written

    from memmodel_evidence.traces import load_trace

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(ROOT / "examples")
        written(load_trace("okazaki-small-training"), Path(folder))
        alone = {"COLUMNS": "80", "MEMMODEL_HOME": folder}
        with contextlib.chdir(folder), patch.dict(os.environ, alone):
            yield


@contextlib.contextmanager
def registries() -> Iterator[None]:
    """What a page adds to the algorithms and to the methods of tensors is taken out again."""
    from memmodel.algorithms import ALGORITHMS
    from memmodel.tensors.tensor import Tensor, methods

    algorithms, known = dict(ALGORITHMS), dict(methods)
    try:
        yield
    finally:
        for name in methods.keys() - known.keys():
            delattr(Tensor, name)
        for registry, before in ((ALGORITHMS, algorithms), (methods, known)):
            registry.clear()
            registry.update(before)  # type: ignore[arg-type]


def main() -> None:
    """Rewrite every page that has changed, or those named."""
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or PAGES
    for path in chosen:
        page = path.read_text(encoding="utf-8")
        fresh = rerun(page)
        if fresh != page:
            path.write_text(fresh, encoding="utf-8")
            print(f"rewrote {page_name(path)}")


sys.path.append(str(ROOT / "tests" / "snapshot"))  # for snapshot_data

if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("kernels", "validate", "evidence"))]
    main()

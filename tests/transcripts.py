"""Transcripts in the documentation: found, run again, compared, and rewritten by `python tests/transcripts.py`.

A transcript is a fenced block after the comment `<!-- transcript: ARGUMENTS -->`: the command and what it prints in 80
columns. A fenced block of Python with prompts is run too, each file's blocks in one namespace, in order.
"""

import contextlib
import doctest
import io
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
COMMAND = re.compile(r"<!-- transcript: (?P<arguments>.*?) -->\n```text\n(?P<body>.*?)```\n", re.DOTALL)
SESSION = re.compile(r"```pycon\n(?P<body>.*?)```\n", re.DOTALL)


def rerun(page: str) -> str:
    """The page as it would read if every command and session were run now."""
    page = COMMAND.sub(lambda m: _put(m, f"$ memmodel {m['arguments']}\n{command_output(m['arguments'])}"), page)
    namespace: dict[str, Any] = {}
    return SESSION.sub(lambda m: _put(m, session(m["body"], namespace)), page)


def _put(match: re.Match[str], body: str) -> str:
    start, end = match.start("body") - match.start(), match.end("body") - match.start()
    return match[0][:start] + body + match[0][end:]


def command_output(arguments: str) -> str:
    """What `memmodel ARGUMENTS` prints into a pipe."""
    from memmodel.cli import cli

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(arguments.split(), prog_name="memmodel", standalone_mode=False)
    return out.getvalue()


def session(body: str, namespace: dict[str, Any]) -> str:
    """A session at the prompt with what it prints now."""
    lines = []
    for example in doctest.DocTestParser().get_examples(body):
        first, *more = example.source.rstrip("\n").split("\n")
        lines += [f">>> {first}\n", *(f"... {line}".rstrip() + "\n" for line in more)]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(example.source, "<session>", "single"), namespace)
        lines.append(out.getvalue())
    return "".join(lines)


def main() -> None:
    """Rewrite every page that has changed."""
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        fresh = rerun(page)
        if fresh != page:
            path.write_text(fresh, encoding="utf-8")
            print(f"rewrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "validate")]
    main()

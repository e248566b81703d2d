"""Every command has its page: its options from the code, an answer, and what wrong use says."""

import re
from pathlib import Path

import click
import pytest

from blocks import misuse
from memmodel.cli import cli
from memmodel.cli.commands import COMMANDS
from transcripts import COMMAND, ROOT

PAGES = ROOT / "docs" / "commands"
NO_TRANSCRIPT = {"calibrate", "explore"}  # it measures for a minute; its size changes with every rule of the model


def problems(name: str, folder: Path) -> list[str]:
    """What a command's page lacks."""
    path = folder / f"{name}.md"
    if not path.exists():
        return ["a page"]
    page = path.read_text(encoding="utf-8")
    runs = [match["body"] for match in COMMAND.finditer(page) if match["arguments"].split()[0] == name]
    wrong = [body for body in runs if body.endswith("$ echo $?\n2\n")]
    found = {
        f"the title {name}": page.startswith(f"# {name}\n\n{COMMANDS.get(name)}\n"),
        "an answer": len(runs) > len(wrong) or name in NO_TRANSCRIPT,
        "wrong use": bool(wrong),
        "its options": f".. click:: memmodel.cli.clicked:{name}\n   :prog: memmodel {name}\n" in page,
        "a line in the list": re.search(rf"^{name}$", (folder / "index.md").read_text("utf-8"), re.MULTILINE),
    }
    return [what for what, there in found.items() if not there]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_page(name: str) -> None:
    assert problems(name, PAGES) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_a_help_text_have_valid_options(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    text = (command.epilog or "").replace("\\\n", "").replace('eval "$(', "").replace(')"', "")
    found = [line.strip() for line in text.splitlines() if line.strip().startswith("memmodel ")]
    assert found or command.epilog is None
    assert [wrong for line in found if (wrong := misuse(line))] == []


def test_there_is_no_page_of_a_command_that_is_gone() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} - {"index"} == set(COMMANDS)

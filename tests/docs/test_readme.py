"""Transcripts and Python sessions of README and docs are what the tool prints, byte for byte; links lead somewhere."""

import re
from pathlib import Path

import pytest

from transcripts import COMMAND, PAGES, ROOT, SESSION, rerun

README = ROOT / "README.md"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_reads_as_if_run_now(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert rerun(page) == page, "run `python tests/transcripts.py` and look at what changed"


def test_a_changed_transcript_would_be_noticed() -> None:
    page = README.read_text(encoding="utf-8")
    changed = page.replace("64.75 GiB", "64.74 GiB", 1)
    assert changed != page
    assert rerun(changed) == page


def test_a_changed_session_would_be_noticed() -> None:
    page = README.read_text(encoding="utf-8")
    changed = page.replace("(False, True)", "(True, True)")
    assert changed != page
    assert rerun(changed) == page


def test_readme_opens_with_a_sentence_a_transcript_and_five_lines_of_python() -> None:
    page = README.read_text(encoding="utf-8")
    first = COMMAND.search(page)
    assert first is not None
    assert first["arguments"] == "predict --gpu A100 --seq 16384"
    assert page[: first.start()].count(".") == 1
    session = SESSION.search(page)
    assert session is not None
    assert session["body"].count(">>> ") == 5


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_of_text_or_python_is_checked(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    checked = len(COMMAND.findall(page)) + len(SESSION.findall(page))
    assert len(re.findall(r"^```(?:text|pycon)$", page, re.MULTILINE)) == checked
    assert page.count("<!-- transcript:") == len(COMMAND.findall(page))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []

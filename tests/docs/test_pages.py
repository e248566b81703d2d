"""Pages are what the tool prints, byte for byte; every block of code is run or says why not; links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

from blocks import REASONS, blocks, commands, complaint, misuse
from transcripts import COMMAND, PAGES, ROOT, SESSION, page_name, rerun

README = ROOT / "README.md"
each_page = pytest.mark.parametrize("path", PAGES, ids=page_name)


SLOW = tuple(
    f"docs/{page}.md" for page in ("commands/accuracy", "commands/explore", "examples", "questions")
)  # seconds
in_time = [pytest.param(path, marks=pytest.mark.slow) if page_name(path) in SLOW else path for path in PAGES]


@pytest.mark.usefixtures("judged_once")
@pytest.mark.parametrize("path", in_time, ids=[*map(page_name, PAGES)])
def test_page_reads_as_if_run_now(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert rerun(page) == page, f"run `python tests/transcripts.py {page_name(path)}` and look at what changed"


def test_readme_opens_with_a_sentence_a_transcript_and_five_lines_of_python() -> None:
    page = README.read_text(encoding="utf-8")
    first = COMMAND.search(page)
    assert first is not None
    assert first["arguments"] == "predict --gpu A100 --seq 16384"
    assert page[: first.start()].count(".") == 1
    session = SESSION.search(page)
    assert session is not None
    assert session["body"].count(">>> ") == 5


@each_page
def test_every_block_is_run_or_says_why_not(path: Path) -> None:
    wrong = [(block.line, found) for block in blocks(path.read_text(encoding="utf-8")) if (found := complaint(block))]
    assert wrong == []


@each_page
def test_every_mark_stands_where_it_is_read(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    marked = [block.mark for block in blocks(page) if block.mark]
    assert len(re.findall(r"^<!-- (?:transcript|example|not run):", page, re.MULTILINE)) == len(marked)


def test_every_reason_is_used() -> None:
    given = {block.value for path in PAGES for block in blocks(path.read_text("utf-8")) if block.mark == "not run"}
    assert given == set(REASONS)


@each_page
def test_gpu_files_can_be_read(path: Path, tmp_path: Path) -> None:
    from memmodel.gpus import load_gpu_file

    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language == "toml":
            (tmp_path / "gpu.toml").write_text(block.text)
            assert set(load_gpu_file(str(tmp_path / "gpu.toml")).values) >= {"bandwidth", "capacity"}
            assert tomllib.loads(block.text)


@each_page
def test_commands_that_are_not_run_have_valid_options(path: Path) -> None:
    assert [found for line in commands(path.read_text(encoding="utf-8")) if (found := misuse(line))] == []


def test_commands_in_the_examples_have_valid_options() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "examples").iterdir() if path.is_file()]
    told = [line for text in texts for line in re.findall(r"`(memmodel [^`]*)`", text)]
    assert len(told) > 2
    assert [found for line in told if (found := misuse(line))] == []


@each_page
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []

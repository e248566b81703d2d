"""Pages are what the tool prints, byte for byte; every block of code is run or says why not; links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

from blocks import REASONS, Block, blocks, commands, complaint, misuse
from transcripts import COMMAND, PAGES, ROOT, SESSION, page_name, rerun

README = ROOT / "README.md"
each_page = pytest.mark.parametrize("path", PAGES, ids=page_name)


SLOW = tuple(
    f"docs/{page}.md" for page in ("commands/accuracy", "commands/explore", "examples", "questions")
)  # seconds
in_time = [pytest.param(path, marks=pytest.mark.slow) if page_name(path) in SLOW else path for path in PAGES]


@pytest.mark.parametrize("path", in_time, ids=[*map(page_name, PAGES)])
def test_page_reads_as_if_run_now(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert rerun(page) == page, f"run `python tests/transcripts.py {page_name(path)}` and look at what changed"


@pytest.mark.parametrize(
    ("name", "now", "before"),
    [
        ("README.md", "64.75 GiB", "64.74 GiB"),
        ("README.md", "(False, True)", "(True, True)"),
        ("docs/commands/gpus.md", "unknown GPU 'B201'", "unknown GPU"),
        ("docs/commands/gpus.md", "$ echo $?\n2", "$ echo $?\n1"),
    ],
)
def test_a_change_would_be_noticed(name: str, now: str, before: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    changed = page.replace(now, before, 1)
    assert changed != page
    assert rerun(changed) == page


def test_an_example_that_prints_something_else_would_be_noticed() -> None:
    page = "<!-- example: find_the_wall -->\n```text\n$ python examples/find_the_wall.py\n```\n"
    assert "NVIDIA A100 80GB SXM" in rerun(page)


def test_what_a_page_registers_is_gone_afterwards() -> None:
    from memmodel.algorithms import ALGORITHMS
    from memmodel.tensors.tensor import Tensor

    rerun(
        "```python\n"
        "from memmodel.algorithms import ALGORITHMS\n"
        "from memmodel.tensors.tensor import method\n\n"
        'ALGORITHMS["mine"] = ALGORITHMS.pop("naive")\n'
        'method("mine")(print)\n'
        "```\n"
    )
    assert "mine" not in ALGORITHMS
    assert "naive" in ALGORITHMS
    assert not hasattr(Tensor, "mine")


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


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ("    memmodel predict\n", "an indented block"),
        ("```\nmemmodel predict\n```\n", "an indented block, or one without a language"),
        ("```text\n$ memmodel predict\n```\n", "text that no command printed"),
        ("```sh\nmemmodel predict\n```\n", "sh is not run"),
        ("<!-- not run: too long -->\n```sh\nmemmodel predict\n```\n", "'too long' is no reason"),
        ("<!-- not run: installs -->\n\ntext\n\n```sh\npip install .\n```\n", "sh is not run"),
    ],
)
def test_a_block_without_its_mark_would_be_noticed(page: str, wrong: str) -> None:
    (block,) = blocks(page)
    assert (complaint(block) or "").startswith(wrong)


@pytest.mark.parametrize("reason", REASONS)
def test_a_block_with_a_reason_is_right(reason: str) -> None:
    assert [*blocks(f"<!-- not run: {reason} -->\n```sh\nx\n```\n")] == [Block(2, "sh", "x\n", "not run", reason)]
    assert complaint(Block(2, "sh", "x\n", "not run", reason)) is None


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


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ("`memmodel predict --sequence 4`\n", "No such option '--sequence'"),
        ("```sh\nmemmodel predikt   # soon\n```\n", "no such command"),
        ("    $ memmodel max --step x\n", "--step x: expected a whole number"),
        ("```sh\nmemmodel replay --json\n```\n", "Missing argument"),
    ],
)
def test_a_wrong_command_would_be_noticed(page: str, wrong: str) -> None:
    (line,) = commands(page)
    assert wrong in (misuse(line) or "")


def test_commands_are_found_in_text_and_blocks() -> None:
    page = "Run `memmodel max --step 2`, or\n\n```sh\n$ memmodel gpus L4  # one\nmemmodel_validate\n```\n"
    assert [*commands(page)] == ["memmodel gpus L4  # one", "memmodel max --step 2"]


@each_page
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []

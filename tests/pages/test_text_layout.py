"""Text and tables are laid out as `rich` lays them out, in any width."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from memmodel.report.console import html, print_styled, text
from memmodel.report.text import Column, Table, Text

WORDS = st.text("ab c-\n²语", max_size=40)
WIDTHS = st.integers(20, 60)


def by_rich(part: object, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(part)
    return [line.rstrip() for line in capture.get().splitlines()]


@given(WORDS, WIDTHS)
def test_words_wrap_as_in_rich(words: str, width: int) -> None:
    assert text(Text(words), width).splitlines() == by_rich(RichText(words), width)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5),
    st.lists(st.lists(WORDS, min_size=5, max_size=5), min_size=1, max_size=4),
    st.sampled_from([1, 2]),
    WIDTHS,
)
def test_tables_are_set_as_in_rich(kinds: list[tuple[bool, bool]], rows: list[list[str]], gap: int, width: int) -> None:
    table = Table([Column(f"column {i}", right, whole) for i, (right, whole) in enumerate(kinds)], gap=gap)
    theirs = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, gap - 1))
    for i, (right, whole) in enumerate(kinds):
        theirs.add_column(f"column {i}", justify="right" if right else "left", no_wrap=whole, overflow="fold")
    for row in rows:
        table.add(*row[: len(kinds)])
        theirs.add_row(*map(RichText, row[: len(kinds)]))
    assert text(table, width).splitlines() == by_rich(theirs, width)


def test_control_characters_of_files_do_not_reach_the_terminal() -> None:
    assert text(Text("a\x1b[2Jb\x9b")) == "a[2Jb\n"


def test_styles_become_the_terminals_codes_and_css(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Text.assemble("a ", ("<b>", "bold red"))
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    print_styled([line], stream)
    monkeypatch.setenv("NO_COLOR", "1")
    print_styled([line], stream)
    assert stream.getvalue() == "a \x1b[1;31m<b>\x1b[0m\na \x1b[1m<b>\x1b[0m\n"
    assert html(line) == '<pre>a <span style="font-weight: bold; color: red">&lt;b&gt;</span>\n</pre>'

"""The README's accuracy tables are today's."""

import re
from pathlib import Path

import memmodel_validate
from memmodel_validate.accuracy import accuracy
from memmodel_validate.accuracy_table import markdown
from memmodel_validate.records import shipped

README = Path(memmodel_validate.__file__).parents[2] / "README.md"


def table_of(page: str) -> str:
    found = re.search(r"<!-- accuracy table -->\n(.*?)\n<!-- end of table -->", page, re.DOTALL)
    assert found
    return found[1].strip()


def test_the_table_is_not_stale() -> None:
    printed = table_of(README.read_text(encoding="utf-8"))
    assert printed == markdown(accuracy(shipped())), "put in what `memmodel accuracy --markdown` prints"


def test_a_stale_table_would_be_noticed() -> None:
    page = README.read_text(encoding="utf-8").replace("**670**", "**671**")
    assert table_of(page) != markdown(accuracy(shipped()))

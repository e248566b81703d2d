"""The accuracy tables of the README and of docs/accuracy.md are today's."""

import re
from pathlib import Path

import pytest

import memmodel_validate
from memmodel_validate.accuracy import accuracy
from memmodel_validate.accuracy_table import markdown

pytestmark = pytest.mark.usefixtures("judged_once")
ROOT = Path(memmodel_validate.__file__).parents[2]
TABLES = {"README.md": False, "docs/accuracy.md": True}  # whether by recorded table


def table_of(page: str) -> str:
    found = re.search(r"<!-- accuracy table -->\n(.*?)\n<!-- end of table -->", page, re.DOTALL)
    assert found
    return found[1].strip()


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_not_stale(name: str) -> None:
    printed = table_of((ROOT / name).read_text(encoding="utf-8"))
    options = "--markdown --by-table" if TABLES[name] else "--markdown"
    assert printed == markdown(accuracy(), TABLES[name]), f"put in what `memmodel accuracy {options}` prints"

"""docs/pictures.md: every key of --data, no other, and drawings that show what the commands draw today."""

import json
import re
from itertools import chain
from pathlib import Path

import pytest
from picture_cases import run

from json_tables import problems, rows_of

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "pictures.md").read_text(encoding="utf-8")
DATA = {
    "timeline": ("timeline", "--gpu", "A100"),
    "roofline": ("roofline", "--gpu", "A100", "--dtype", "fp16", "--measured"),
    "frontier": ("frontier", "--gpu", "T4", "--dtype", "fp16", "--sizes", "8,16"),
    "frontier --heat": ("frontier", "--gpu", "T4", "--dtype", "fp16", "-a", "naive", "--sizes", "8,16", "--heat"),
}
DRAWN = {
    "timeline": ("timeline", "--gpu", "A100", "--seq", "16384", "-a", "naive"),
    "timeline-flash": ("timeline", "--gpu", "A100", "--seq", "16384", "-a", "flash"),
    "roofline": ("roofline", "--gpu", "A100", "--seq", "16384"),
    "frontier": ("frontier", "--gpu", "A100,T4", "--dtype", "fp16"),
    "heat-map": ("frontier", "--gpu", "A100", "-a", "naive", "--heat"),
}


@pytest.mark.parametrize("title", DATA)
def test_documented_keys_are_the_printed_ones(title: str) -> None:
    rows = rows_of(PAGE.partition(f"### Data of {title}\n")[2].partition("\n##")[0])
    whole = [key for key, kind in rows.items() if kind == "object"]
    assert problems([json.loads(run(*DATA[title], "--data").output)], rows, whole) == []


@pytest.mark.parametrize("name", DRAWN)
def test_drawings_say_what_the_commands_draw_today(name: str, tmp_path: Path) -> None:
    file = tmp_path / "now.svg"
    run(*DRAWN[name], "-o", str(file))
    kept = (DOCS / "img" / f"{name}.svg").read_text(encoding="utf-8")
    again = f"run memmodel {' '.join(DRAWN[name])} -o docs/img/{name}.svg --force, and look at it"
    assert words(kept) == words(file.read_text(encoding="utf-8")), again
    assert len(kept.encode()) < 60 * 1024


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_drawing_is_made_by_a_command_and_in_a_page() -> None:
    drawings = {file.stem for file in (DOCS / "img").glob("*.svg")}
    shown = (
        re.findall(r"\((?:\.\./)?img/([^)]+)\.svg\)", page.read_text(encoding="utf-8")) for page in DOCS.rglob("*.md")
    )
    assert drawings == set(DRAWN) == set(chain(*shown))

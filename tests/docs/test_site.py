"""The book is built without a warning, every page of it can be reached, and none loads anything from a network."""

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import memmodel
from made_once import made_once
from transcripts import ROOT

pytestmark = pytest.mark.slow
DOCS = ROOT / "docs"
LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book."""
    return made_once(tmp_path_factory, "site", lambda folder: build(DOCS, folder))


# Looking for garbage takes a fifth of the time of a build, whose process ends soon.
SPHINX = "import gc, sys; gc.disable(); from sphinx.cmd.build import main; sys.exit(main(sys.argv[1:]))"
# Defaults of arguments as the source spells them take a tenth: no link and no warning depends on that.
OPTIONS = ("-W", "--keep-going", "-q", "-b", "html", "-D", "autodoc_preserve_defaults=0")


def build(sources: Path, folder: Path) -> None:
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "kernels", "validate"))
    done = subprocess.run(
        [sys.executable, "-c", SPHINX, *OPTIONS, str(sources), str(folder)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr.strip(), done.stderr
    assert done.returncode == 0


class Elements(HTMLParser):
    """The elements of a page, as (tag, attributes)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))


def loaded(page: str) -> Iterator[str]:
    """What a browser fetches to show a page."""
    for tag, attributes in Elements(page).found:
        if tag in LOADS and LOADS[tag] in attributes:
            yield urldefrag(attributes[LOADS[tag]])[0].partition("?")[0]


def links(page: str) -> Iterator[str]:
    """Where the links of a page lead."""
    for tag, attributes in Elements(page).found:
        if tag == "a" and "href" in attributes:
            yield attributes["href"]


def foreign(address: str) -> bool:
    return "//" in address and not address.startswith("data:")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    reached, left = set(), [(site / "index.html").resolve()]
    while left:
        path = left.pop()
        if path in reached:
            continue
        reached.add(path)
        targets = (unquote(urldefrag(link)[0]) for link in links(text(path)) if not foreign(link))
        left += [(path.parent / target).resolve() for target in targets if target.endswith(".html")]
    pages = {(site / path.relative_to(DOCS)).with_suffix(".html").resolve() for path in DOCS.rglob("*.md")}
    assert pages - reached == set()


def test_links_within_the_book_lead_somewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for link in links(text(path)):
            target = unquote(urldefrag(link)[0])
            assert foreign(link) or (path.parent / target).exists(), f"{path.name}: {link}"


def test_no_page_loads_anything_from_a_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        for address in loaded(text(path)):
            assert not foreign(address), f"{path.name}: {address}"
            assert (path.parent / unquote(address)).exists(), f"{path.name}: {address}"
    for path in site.rglob("*.css"):
        assert "url(http" not in text(path).replace('"', "").replace("'", "")
        assert "@import" not in text(path)


@pytest.mark.parametrize("name", [name for name in (*memmodel.__all__, *memmodel._HOMES) if name != "__version__"])
def test_every_public_name_is_in_the_reference(site: Path, name: str) -> None:
    home = memmodel._HOMES.get(name) or {"predict": "memmodel.predictor", "trace": "memmodel.tracer.api"}[name]
    place = getattr(memmodel, name).__module__ if name in memmodel._HOMES else home
    assert any(f'id="{place}.{name}"' in text(path) for path in (site / "api").glob("*.html")), f"{place}.{name}"


def test_every_family_of_operators_is_in_the_reference(site: Path) -> None:
    page = text(site / "api" / "recording.html")
    families = [
        path.stem for path in (ROOT / "memmodel" / "rules").glob("*.py") if path.stem not in ("__init__", "all")
    ]
    assert len(families) > 5
    assert [name for name in families if f'id="module-memmodel.rules.{name}"' not in page] == []

"""The HTML that `memmodel report` writes, in a real browser: it loads nothing and fits a phone."""

from pathlib import Path
from typing import Any

import pytest

import browser
from memmodel.cli import cli

CASES = {
    "common": ("--gpu", "A100", "--seq", "16384"),
    "long": (
        "--gpu",
        "H100",
        "--seq",
        "8192",
        "--heads",
        "32",
        "--kv-heads",
        "8",
        "-a",
        "naive-by-hand,flash,compiled",
    ),
    "bare": ("--gpu", "T4", "--seq", "4096", "-a", "decode", "--phase", "inference"),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib")
    from click.testing import CliRunner

    path = tmp_path_factory.mktemp("report") / "report.html"
    CliRunner().invoke(cli, ["report", *CASES[request.param], "-o", str(path)], catch_exceptions=False)
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_a_report_fits_its_window_and_loads_nothing(chromium: Any, report: Path, width: int, dark: bool) -> None:
    browser.screen(chromium, width, dark=dark)
    browser.opened(chromium, report)
    assert browser.overflow(chromium) == []
    assert browser.console(chromium) == []
    assert browser.requests(chromium) == [report.as_uri()]


def test_pictures_and_formulas_can_be_read_on_a_phone(chromium: Any, report: Path) -> None:
    browser.screen(chromium, 360)
    browser.opened(chromium, report)
    widths = chromium.execute_script("return [...document.querySelectorAll('figure svg')].map((e) => e.clientWidth)")
    assert min(widths) > 600  # as wide as drawn: their text keeps its size, and the box around them scrolls
    heights = chromium.execute_script(
        """
        const outer = [...document.querySelectorAll("mfrac")].filter((e) => !e.parentElement.closest("mfrac"));
        return outer.map((e) => e.getBoundingClientRect().height);
        """
    )
    assert all(height > 15 for height in heights)
    scrolling = chromium.execute_script(
        """
        return [...document.querySelectorAll("figure, .wide")].filter((e) => e.scrollWidth > e.clientWidth)
          .map((e) => [e.tabIndex, Boolean(e.getAttribute("aria-label"))]);
        """
    )
    assert all(box == [0, True] for box in scrolling)  # by keyboard too

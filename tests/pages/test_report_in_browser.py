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
    drawn = chromium.execute_script(
        """
        return [...document.querySelectorAll("figure")].map((figure) => {
          const shown = [...figure.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width);
          const words = shown.flatMap((svg) => [...svg.querySelectorAll("text")].filter((e) => e.textContent.trim()));
          const height = (e) => Math.min(e.getBoundingClientRect().height, e.getBoundingClientRect().width * 3);
          return [shown.length, shown[0].getBoundingClientRect().right, Math.min(...words.map(height))];
        });
        """
    )
    assert drawn
    for count, right, smallest in drawn:
        assert count == 1
        assert right <= 360
        assert smallest >= 9  # pixels
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


def test_pictures_are_as_dark_as_the_page(chromium: Any, report: Path) -> None:
    browser.screen(chromium, 1280, dark=True)
    browser.opened(chromium, report)
    fills = chromium.execute_script(
        """
        const backgrounds = ["patch_1", "patch_2"].map((id) => `figure svg [id$=${id}] path`).join();
        const fills = [...document.querySelectorAll(backgrounds)].map((e) => getComputedStyle(e).fill);
        return [getComputedStyle(document.body).backgroundColor, ...fills];
        """
    )
    assert len(fills) > 2
    assert len(set(fills)) == 1

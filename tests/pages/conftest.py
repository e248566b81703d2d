"""One browser and one page for all tests of this folder."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import browser


@pytest.fixture(scope="session", autouse=True)
def built_once() -> Iterator[None]:
    """The page depends on nothing and takes seconds: all commands in these tests write the same."""
    from memmodel.explorer import page

    with mock.patch.object(page, "explorer_page", cache(page.explorer_page)):
        yield


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explorer as a file."""
    from memmodel.explorer.page import explorer_page

    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(explorer_page(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser; skips, saying why, where there is none."""
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as driver:
        driver.set_script_timeout(300)
        yield driver


@pytest.fixture
def explorer(chromium: Any, page: Path) -> Any:
    """The page, open in a wide window, in its first state."""
    browser.screen(chromium, 1280)
    browser.opened(chromium, page)
    chromium.execute_async_script("memmodel.ready.then(arguments[0])")
    return chromium

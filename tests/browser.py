"""A real Chromium for pages that stand in a file: what it logged, what it asked the network for, how wide it is."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


def missing() -> str:
    """Why there is no browser to test with; empty where there is one."""
    try:
        import selenium  # noqa: F401
    except ModuleNotFoundError:
        return "selenium is not installed: pip install selenium"
    if CHROMIUM is None or DRIVER is None:
        return "no Chromium with its driver is installed: apt-get install chromium chromium-driver"
    return ""


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A headless Chromium with a profile of its own; it is closed with the context."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def opened(driver: Any, page: Path, fragment: str = "") -> None:
    """Open a file, its logs empty before."""
    driver.get("about:blank")
    console(driver)
    requests(driver)
    driver.get(page.as_uri() + fragment)


def console(driver: Any) -> list[str]:
    """What the page logged or failed with since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: Any) -> list[str]:
    """Addresses asked for since the last call, from Chromium's own log: a file's page is one, its memory none."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    sent = (m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent")
    return [url for url in sent if not url.startswith(("data:", "about:", "blob:"))]


def screen(driver: Any, width: int, height: int = 800, dark: bool = False) -> None:
    """A window of that size in CSS pixels, a phone's below 500."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def overflow(driver: Any) -> list[str]:
    """Elements that reach beyond the window's right edge, outside of boxes that scroll by themselves."""
    found: list[str] = driver.execute_script(
        """
        const wide = document.documentElement.clientWidth;
        const scrolls = (e) => e && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
        return [...document.body.querySelectorAll("*")]
          .filter((e) => e.getBoundingClientRect().right > wide + 0.5 && !scrolls(e.parentElement))
          .map((e) => `${e.tagName} ${e.id} ${e.textContent.slice(0, 30)}`)
          .concat(document.documentElement.scrollWidth > wide ? ["the page"] : []);
        """
    )
    return found

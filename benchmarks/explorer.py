"""How long the explorer's page takes to be made, and to answer a slider: input event to laid-out page, in Chromium.

The slider of the sequence walks over its stops; the page computes, draws, and its layout is forced before the clock
stops. Wall times are medians of 200; CPU time is the page's thread alone, which another program does not lengthen.
Needs selenium, Chromium and its driver.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import browser
from memmodel.explorer.page import explorer_page

UPDATES = 200
TARGET_MS = 16.0
ALGORITHMS = ("naive", "naive-by-hand", "flash", "checkpointed")
SLIDE = """
const [algorithm, count] = arguments, times = [];
const choice = document.getElementById("algorithm"), slider = document.getElementById("seq-slider");
choice.value = algorithm;
choice.dispatchEvent(new Event("input"));
for (let i = 0; i < count; i++) {
  slider.value = i * 7 % 52;
  const start = performance.now();
  slider.dispatchEvent(new Event("input"));
  document.body.getBoundingClientRect();
  times.push(performance.now() - start);
}
return times;
"""


def update_ms(driver: Any, algorithm: str, count: int = UPDATES) -> tuple[float, float]:
    """(median wall, mean CPU) milliseconds of an update."""
    before = _cpu_seconds(driver)
    times = driver.execute_script(SLIDE, algorithm, count)
    return statistics.median(times), 1000 * (_cpu_seconds(driver) - before) / count


def _cpu_seconds(driver: Any) -> float:
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")


def main() -> None:
    start = time.perf_counter()
    page = explorer_page()
    print(f"made in {time.perf_counter() - start:.1f} s, {len(page.encode()):,} bytes")
    if reason := browser.missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "explorer.html"
        path.write_text(page, encoding="utf-8")
        with browser.chromium(Path(folder) / "profile") as driver:
            driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            browser.screen(driver, 1280)
            browser.opened(driver, path)
            driver.execute_async_script("memmodel.ready.then(arguments[0])")
            for algorithm in ALGORITHMS:
                wall, cpu = update_ms(driver, algorithm)
                print(f"update, {algorithm:14} {wall:5.1f} ms median, {cpu:4.1f} ms of CPU (target {TARGET_MS:.0f} ms)")


if __name__ == "__main__":
    main()

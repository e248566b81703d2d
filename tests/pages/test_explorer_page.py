"""The page as a reader meets it: in any window, with a keyboard, from a link, without a network."""

import re
from pathlib import Path
from typing import Any

import pytest

import browser
from memmodel.explorer.page import explorer_page

MOST_BYTES = 160_000
NUMBERS = re.compile(r"NaN|undefined|Infinity|null|\[object")


def ready(driver: Any, page: Path, fragment: str = "") -> None:
    browser.opened(driver, page, fragment)
    driver.execute_async_script("memmodel.ready.then(arguments[0])")


def settled(driver: Any) -> None:
    """Wait until the frontier is drawn whole."""
    driver.execute_async_script(
        """
        const done = arguments[0];
        const wait = () => document.querySelector("#frontier[aria-busy=true]") ? setTimeout(wait, 20) : done();
        setTimeout(wait, 100);
        """
    )


def text(driver: Any, selector: str = "body") -> str:
    found: str = driver.execute_script(f"return document.querySelector({selector!r}).innerText")
    return found


def set_to(driver: Any, name: str, value: Any) -> None:
    """Type into a control."""
    driver.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'));",
        *(name, str(value)),
    )


def test_the_file_is_small_and_the_same_each_time(page: Path) -> None:
    assert page.stat().st_size < MOST_BYTES
    assert explorer_page() == page.read_text(encoding="utf-8")


def test_the_file_names_no_address_and_ends_its_script_once(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    written = max(re.findall(r'"[^"]{9999,}"', html), key=len)  # the packed script, in which any letters may meet
    assert not re.search(r"(?:src|href)=\"(?!data:,|#)|https?:|@import|url\((?!#)", html.replace(written, ""))
    assert html.count("</script>") == html.count("<script>") == 1
    assert "default-src 'none'" in html
    assert "unsafe-inline" not in html


def test_nothing_is_logged_and_nothing_asked_for(explorer: Any, page: Path) -> None:
    ready(explorer, page)
    settled(explorer)
    for name, value in (("algorithm", "flash"), ("seq-slider", 30), ("mask", "window"), ("window", 64), ("heads", 12)):
        set_to(explorer, name, value)
    settled(explorer)
    assert browser.console(explorer) == []
    assert browser.requests(explorer) == [page.as_uri()]
    assert explorer.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_the_policy_forbids_a_request(explorer: Any) -> None:
    reached = explorer.execute_async_script(
        "const done = arguments[0]; fetch('https://example.org/').then(() => done(true), () => done(false));"
    )
    assert reached is False
    assert any("Content Security Policy" in message for message in browser.console(explorer))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_pages_fit_the_window_and_no_text_covers_another(explorer: Any, page: Path, width: int, dark: bool) -> None:
    for state in ("", "#algorithm=naive-by-hand&mask=window&seq=65536&heads=8", "#algorithm=flash&gpu=t4&dtype=bf16"):
        browser.screen(explorer, width, dark=dark)
        ready(explorer, page, state)
        settled(explorer)
        assert browser.overflow(explorer) == []
        cut = explorer.execute_script(
            """
            return [...document.querySelectorAll(".plot svg")].flatMap((svg) => {
              const box = svg.getBoundingClientRect();
              return [...svg.querySelectorAll("text")].filter((text) => {
                const own = text.getBoundingClientRect();
                const across = own.left < box.left - 1 || own.right > box.right + 1;
                return across || own.top < box.top - 1 || own.bottom > box.bottom + 1;
              }).map((text) => text.textContent);
            });
            """
        )
        assert cut == []
        assert covered(explorer) == []


def covered(driver: Any) -> list[str]:
    """Texts of the pictures that touch a mark or another text, or that have another colour than the page's words."""
    found: list[str] = driver.execute_script(
        """
        const ink = getComputedStyle(document.body).color;
        return [...document.querySelectorAll(".plot svg")].flatMap((svg) => {
          const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent);
          const boxes = [...texts, ...svg.querySelectorAll(".mark")].map((e) => [e, e.getBoundingClientRect()]);
          const touch = (a, b) =>
            a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 4 && b.top < a.bottom - 4;
          const over = boxes.filter(([e, a], i) =>
            boxes.some(([f, b], j) => i < j && (e.tagName === "text" || f.tagName === "text") && touch(a, b)));
          const pale = texts.filter((e) => e.classList.contains("halo") && getComputedStyle(e).fill !== ink);
          return [...over.map(([e]) => e), ...pale].map((e) => e.textContent);
        });
        """
    )
    return found


def test_a_link_restores_the_state(explorer: Any, page: Path) -> None:
    changes = {
        "gpu": "h100-sxm",
        "algorithm": "flash",
        "mask": "window",
        "window": 512,
        "heads": 24,
        "kvHeads": 8,
        "batch": 3,
    }
    for name, value in changes.items():
        set_to(explorer, name, value)
    link = explorer.execute_async_script("setTimeout(() => arguments[0](location.hash), 300)")
    verdict, figures = text(explorer, "#verdict"), text(explorer, "#figures")
    ready(explorer, page, link)
    assert (text(explorer, "#verdict"), text(explorer, "#figures")) == (verdict, figures)
    shown = {name: explorer.execute_script(f"return document.getElementById('{name}').value") for name in changes}
    assert shown == {name: str(value) for name, value in changes.items()}


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("#seq=many", "seq many: expected a whole number of at least 1"),
        ("#seq=-4", "seq -4: expected a whole number of at least 1"),
        ("#batch=0", "batch 0: expected a whole number of at least 1"),
        ("#batch=1e99", "batch 1e99: expected a whole number of at least 1"),
        ("#seq=99999999999", "sizes above 2147483648 (2^31) are taken for a mistake"),
        ("#seq=2147483648&batch=2147483648", "more bytes than this page can count exactly (2^53)"),
        ("#gpu=h900", "unknown GPU “h900”"),
        ("#algorithm=%3Cimg%20src=x%3E", "unknown algorithm “<img src=x>”"),
        ("#heads=32&kvHeads=5", "kv-heads must be a divisor of heads, such as 4"),
        ("#heads=2147483647&kvHeads=2", "kv-heads must be a divisor of heads, such as 1"),
        ("#mask=window&window=999&seq=64", "window 999 with 64 keys"),
        ("#algorithm=flash&dtype=fp64", "choose another algorithm"),
        ("#algorithm=flash&headDim=512", "choose another algorithm"),
        ("#dtype=__proto__", "unknown dtype “__proto__”"),
        ("#%E0%A4%A&&&==", "which this page does not know: left out"),
        ("#depth=3&seq=2048", "the link says “depth”, which this page does not know: left out"),
    ],
)
def test_a_broken_link_gets_a_sentence(explorer: Any, page: Path, fragment: str, message: str) -> None:
    ready(explorer, page, fragment)
    assert message in text(explorer, "main")
    assert not NUMBERS.search(text(explorer).replace("/dev/null", ""))
    assert browser.console(explorer) == []
    set_to(explorer, "gpu", "a100-80gb-sxm")
    for name, value in (("algorithm", "naive"), ("dtype", "bf16"), ("mask", "none"), ("seq", "2k"), ("batch", 1)):
        set_to(explorer, name, value)
    for name, value in (("heads", 8), ("kvHeads", 8), ("headDim", 64)):
        set_to(explorer, name, value)
    assert text(explorer, "#verdict").startswith("✓ naive attention fits")  # and the way out is open


def test_absurd_input_in_a_box_gets_a_sentence(explorer: Any) -> None:
    for given in ("", "abc", "-1", "1.5", "0", "1e30", "99999999999999999999999", "<b>"):
        set_to(explorer, "seq", given)
        assert "seq" in text(explorer, "#verdict")
        assert not NUMBERS.search(text(explorer))
        assert explorer.execute_script("return document.getElementById('seq').getAttribute('aria-invalid')") == "true"
    set_to(explorer, "seq", "4k")
    assert "fits" in text(explorer, "#verdict")
    assert browser.console(explorer) == []


def test_no_number_is_broken_at_the_smallest_and_at_large_sizes(explorer: Any) -> None:
    for seq in ("1", "2", "1M", "8M"):
        for algorithm in ("naive", "naive-by-hand", "flash", "flash-deterministic", "checkpointed", "compiled"):
            set_to(explorer, "seq", seq)
            set_to(explorer, "algorithm", algorithm)
            assert not NUMBERS.search(explorer.execute_script("return document.querySelector('main').innerHTML"))


def test_every_control_has_a_name_and_is_reached_by_keyboard(explorer: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    controls = explorer.execute_script(
        """
        const shown = [...document.querySelectorAll("input, select, button, a")].filter((e) => e.offsetParent);
        const name = (e) => e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent;
        return shown.map((e) => [e.id || e.textContent, name(e).trim()]);
        """
    )
    assert all(name for _, name in controls)
    reached = []
    explorer.execute_script("document.activeElement.blur()")
    for _ in range(len(controls) + 2):
        active = explorer.switch_to.active_element
        active.send_keys(Keys.TAB)
        reached.append(
            explorer.execute_script("return document.activeElement.id || document.activeElement.textContent")
        )
    assert {name for name, _ in controls} <= set(reached)
    before = text(explorer, "#figures")
    slider = explorer.find_element(By.ID, "seq-slider")
    slider.send_keys(Keys.ARROW_LEFT)
    assert text(explorer, "#figures") != before
    assert explorer.execute_script("return document.getElementById('seq').value") == "14336"
    assert slider.get_attribute("aria-valuetext") == "14,336"


def test_heads_take_key_heads_along(explorer: Any) -> None:
    value = "return document.getElementById('kvHeads').value"
    set_to(explorer, "heads", 48)
    assert explorer.execute_script(value) == "48"
    set_to(explorer, "kvHeads", 8)
    set_to(explorer, "heads", 28)
    assert explorer.execute_script(value) == "7"
    assert "fit" in text(explorer, "#verdict")


def test_nothing_moves_by_itself(page: Path) -> None:
    assert not re.search(
        r"transition|animation|@keyframes|requestAnimationFrame|scroll-behavior", page.read_text("utf-8")
    )

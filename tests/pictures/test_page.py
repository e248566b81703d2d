"""Reports as HTML and Markdown: whole, self-contained, and nothing of a user's text is markup."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from picture_cases import run

import memmodel
from memmodel.base.units import bytes_text
from memmodel.gpus import load_gpu_file
from memmodel.pictures.page import Known, model_page_of, page_of
from memmodel.predictor import predict
from memmodel.report.html_page import html_page, typeset
from memmodel.report.markdown_page import markdown_page

pytestmark = pytest.mark.slow
EVIL = '<script>alert(1)</script> & | `x` *y* \\"z\\" $1$'


class Balance(HTMLParser):
    """Fails where a tag is not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(**sizes: Any) -> Any:
    known = [Known("memory", "all GPUs", 5, 5, 0.0, 0.0, 0.0), Known("naive time", "this GPU", 7, None, 0.1, 0.2, 0.3)]
    return page_of(predict("A100", seq=16384, **sizes), None, known, "memmodel report")


def test_html_is_whole_and_loads_nothing() -> None:
    written = html_page(page())
    parser = Balance()
    parser.feed(written)
    assert parser.open == []
    assert set(re.findall(r"https?://[^\s\"<)]+", written)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert not re.search(r"<(?:script|link|img|iframe|object)\b|@import|url\((?!#)", written)
    ids = re.findall(r'\bid="([^"]+)"', written)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(#|href="#)([^)"]+)', written)
    assert references
    assert set(references) <= set(ids)
    for part in ("prefers-color-scheme: dark", "@media print", "<math>", "<svg"):
        assert part in written


@pytest.mark.parametrize("write", [html_page, markdown_page])
def test_a_page_has_the_numbers_of_the_tables(write: Any) -> None:
    found = page()
    written = write(found).replace("\N{NO-BREAK SPACE}", " ")
    for prediction in found.report.predictions:
        memory = prediction.memory
        for number in (memory.live_peak_bytes, memory.allocated_peak_bytes, memory.reserved_peak_bytes):
            assert bytes_text(number) in written
    assert "does not fit in 79.26 GiB" in written
    assert "20.0 %" in written
    assert "no weights, no optimizer (whole models: memmodel model)" in written
    for heading in ("One step", "What would make it fit", "Formulas of naive", "How accurate this is", "Assumed"):
        assert heading in written


def test_typeset_formulas_are_mathml() -> None:
    import sympy

    n = sympy.Symbol("n")
    assert typeset(2 * n**2) == "<math><mrow><mn>2</mn><mo>\u2062</mo><msup><mi>n</mi><mn>2</mn></msup></mrow></math>"


def evil_gpu(folder: Path) -> Any:
    file = folder / "gpu.toml"
    file.write_text(
        f'name = "{EVIL}"\nbandwidth_GBps = 1000\ncapacity_GiB = 16\nsm_count = 10\nboost_clock_MHz = 1000\n'
        "tensor_TFLOPS.bf16 = 100\nvector_TFLOPS.fp32 = 10\n"
    )
    return load_gpu_file(file)


def test_text_of_users_is_no_markup(tmp_path: Path) -> None:
    found = page_of(predict(evil_gpu(tmp_path), "naive"), command=f"memmodel {EVIL}")
    written = html_page(found)
    assert "<script" not in written
    parser = Balance()
    parser.feed(written)
    assert parser.open == []
    text = markdown_page(found)
    outside = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<script" not in outside.replace("\\<", "")
    assert "\\|" in outside


def test_a_gpu_without_rates_still_has_a_page(tmp_path: Path) -> None:
    file = tmp_path / "gpu.toml"
    file.write_text('name = "bare"\nbandwidth_GBps = 1000\n')
    found = page_of(predict(load_gpu_file(file), "naive"))
    assert found.roofline is None
    assert "capacity is not known" in html_page(found)
    assert "capacity is not known" in markdown_page(found)


def test_command_writes_both_and_says_so(tmp_path: Path) -> None:
    for name in ("a.html", "a.md"):
        output = run("report", "--gpu", "H100", "-a", "flash", "-o", str(tmp_path / name)).output
        assert output.startswith(f"wrote {tmp_path / name} (")
        assert "How accurate this is" in (tmp_path / name).read_text()


def test_a_page_of_a_model_has_its_groups_its_time_and_what_helps() -> None:
    report = memmodel.model("llama-3.2-1b", "A100", seq=8192)
    page = model_page_of(report, None, "memmodel report")
    written = markdown_page(page)
    for title in ("What fills the peak", "One step", "What would take less", "memory over one step", "Assumed"):
        assert f"## {title}" in written or title in written
    assert bytes_text(report.prediction.memory.live_peak_bytes) in written
    shown = html_page(page)
    for form in (written, shown):
        assert "Letters: b sequences, n tokens of each, L layers" in form
        assert "\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}feed" in form  # a part of the group above
    parser = Balance()
    parser.feed(shown)
    assert parser.open == []
    assert len(shown) < 2_000_000  # thousands of steps are drawn as many as can be told apart

"""A report from Python: what a step takes, as pictures and as one file to pass on.

The file is `report.html`; its pictures are drawn by matplotlib (pip install 'memmodel[plot]').
"""

import tempfile
from pathlib import Path

import memmodel
from memmodel.pictures.page import page_of
from memmodel.report.html_page import html_page
from memmodel.report.markdown_page import markdown_page


def main() -> None:
    """Predict, look, and write it down."""
    report = memmodel.predict(gpu="A100", seq=8192, algorithms=["naive"])
    page = page_of(report)
    (timeline,) = page.timelines
    print(timeline)  # in a notebook, `timeline` alone draws it

    peak = timeline.at_peak
    print(f"{peak.live_bytes / 2**30:.2f} GiB are alive when {peak.what}, {peak.saved_bytes / 2**30:.2f} GiB of them")
    print("because backward needs them.")

    with tempfile.TemporaryDirectory() as folder:
        timeline.save(Path(folder) / "timeline.svg")
        for name, written in (("report.html", html_page(page)), ("report.md", markdown_page(page))):
            (Path(folder) / name).write_text(written, encoding="utf-8")
        for file in sorted(Path(folder).iterdir()):
            print(f"{file.name}: {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()

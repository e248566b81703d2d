"""Published memory of whole models, of their losses and of generation, as near as promised."""

import pytest

from memmodel_evidence import models
from transcripts import ROOT

pytestmark = pytest.mark.usefixtures("judged_once")
NOT_PROMISED = {"QLoRA"}


def test_every_figure_is_as_near_as_promised() -> None:
    far = [f"{found.source} {found.what}: {found.error:+.2f} %" for found in models.figures() if not found.holds]
    assert far == []


def test_what_is_not_promised_says_why() -> None:
    open_ones = {figure.what: figure for figure in models.figures() if figure.within is None}
    assert set(open_ones) == NOT_PROMISED
    assert all(figure.note for figure in open_ones.values())
    assert all(models.left_out().values())


def test_each_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main() == 0
    printed = capsys.readouterr().out
    assert all(found.what in printed for found in models.figures())


def test_the_page_has_todays_table() -> None:
    assert models.markdown() in (ROOT / "docs" / "model.md").read_text(encoding="utf-8")

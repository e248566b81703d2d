"""The page of a whole model's step: its forms beside recordings, in Python and in a browser."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import browser
from memmodel.base.errors import UsageError
from memmodel.explorer.step_forms import LONGEST, lengths_of, monomials, step_forms
from memmodel.explorer.step_page import step_page
from memmodel.gpus import load_gpu
from memmodel.models.choices import model_case
from memmodel.models.families import architecture_of
from memmodel.models.program import live_peak
from memmodel.models.setting import ModelCase
from memmodel.models.sweep import FEW_TOKENS
from memmodel.step import device_of

TINY = {
    **{"model_type": "mistral", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 192},
    **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 1024},
}
GPUS = [load_gpu(name) for name in ("a100", "h100", "v100")]


def tiny(**choices: Any) -> ModelCase:
    return model_case(architecture_of(TINY, "config.json"), **choices)


@pytest.mark.parametrize("choices", [{}, {"attention": "eager"}, {"checkpoint": "block", "loss": "fused"}])
def test_forms_are_recordings_at_every_size(choices: dict[str, Any]) -> None:
    case, random = tiny(**choices), Random(0)
    forms, by_gpu = step_forms(case, GPUS)
    for _ in range(12):
        gpu, batch, seq = random.choice(GPUS), random.choice((1, 1, 2, 5, 40)), random.choice(lengths_of(case)[:64])
        regime = "".join(str(int(x)) for x in (batch == 1, batch * seq <= FEW_TOKENS, seq < 1024))
        at = monomials(batch, seq)
        sums = [
            sum(k * x for factors in groups for k, x in zip(factors, at, strict=True))
            for _, groups in forms[by_gpu[gpu.id][regime]]
        ]
        assert max(sums) == live_peak(replace(case, batch=batch, seq=seq, device=device_of(gpu)))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (lambda: tiny(gpus=2), "its page is of one GPU"),
        (lambda: tiny(attention="chunked"), "are no sum of 1, b, n"),
    ],
)
def test_what_has_no_page_is_one_sentence(case: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        step_page(case(), GPUS[:1])


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_shows_what_is_recorded(chromium: Any, tmp_path: Path) -> None:
    path, case = tmp_path / "step.html", tiny()
    path.write_text(step_page(case, GPUS), encoding="utf-8")
    for width in (360, 1280):
        browser.screen(chromium, width)
        browser.opened(chromium, path)
        assert browser.overflow(chromium) == []
    for gpu in range(len(GPUS)):
        for batch, seq in ((1, 128), (3, 2048), (16, LONGEST)):
            shown = chromium.execute_script(f"return memmodel.peakAt(memmodel.data.gpus[{gpu}], {batch}, {seq}).bytes")
            assert shown == live_peak(replace(case, batch=batch, seq=seq, device=device_of(GPUS[gpu])))
    wall = chromium.execute_script("return memmodel.wall(memmodel.data.gpus[0], 256)")
    assert wall in lengths_of(case)
    assert browser.console(chromium) == []
    assert browser.requests(chromium)[-1:] == [path.as_uri()]

"""Results show themselves by registered renderers, which exist and are loaded no sooner than needed."""

import subprocess
import sys
from pkgutil import resolve_name

import pytest

import memmodel
from memmodel.base import rendering
from memmodel.report import json


@pytest.mark.parametrize("name", [name for forms in rendering._RENDERERS.values() for name in forms.values()])
def test_every_registered_renderer_exists(name: str) -> None:
    assert callable(resolve_name(name))


@pytest.mark.parametrize("kind", [*rendering._RENDERERS, *(f"memmodel.{name}" for name in json._FORMS)])
def test_every_registered_type_exists(kind: str) -> None:
    module, _, name = kind.rpartition(".")
    assert isinstance(resolve_name(f"{module}:{name}"), type)


def test_a_result_prints_shows_itself_in_a_notebook_and_becomes_a_dict() -> None:
    report = memmodel.predict("A100", "flash", seq=1024)
    assert "reserved peak" in str(report)
    assert report._repr_html_().startswith("<pre>")
    assert report.to_dict()["predictions"] == [report.predictions[0].to_dict()]


def test_what_no_renderer_is_named_for_is_an_error_that_says_where_they_are() -> None:
    with pytest.raises(TypeError, match=r"no latex is registered for Report: memmodel\.report lists"):
        rendering.rendered("latex", memmodel.predict("A100", "flash", seq=1024))


def test_predicting_loads_no_renderer() -> None:
    code = "import memmodel, sys; memmodel.predict('A100', 'flash'); print([m for m in sys.modules if 'rich' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

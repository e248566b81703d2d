"""`memmodel explore`: the file it writes, and what it says where it cannot."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import memmodel.explorer
from memmodel.base.errors import UsageError
from memmodel.cli import cli
from memmodel.explorer.page import SCRIPTS, explorer_page
from memmodel.explorer.programs import ONES, function, structures

pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    return CliRunner().invoke(cli, ["explore", *arguments], catch_exceptions=False, standalone_mode=False).output


def test_it_writes_the_page(tmp_path: Path) -> None:
    path = tmp_path / "explorer.html"
    output = run("-o", str(path))
    assert path.read_text(encoding="utf-8") == explorer_page()
    assert output == f"wrote {path} ({path.stat().st_size:,} bytes)\n"


def test_a_file_that_is_there_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "explorer.html"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists: add --force"):
        run("-o", str(path))
    assert path.read_text() == "mine"
    run("-o", str(path), "--force")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_wrong_outputs_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give the file to write"):
        run()
    with pytest.raises(UsageError, match=r"expected a file name that ends in \.html"):
        run("-o", str(tmp_path / "explorer.svg"))
    with pytest.raises(UsageError, match="can't be written"):
        run("-o", str(tmp_path / "nowhere" / "explorer.html"))


def test_powers_are_products_and_halves_divide() -> None:
    import sympy

    b, n = (sympy.Symbol(name, integer=True, positive=True) for name in "bn")
    assert function(2 * b * n**2) == "({b,n})=>2*b*n*n"
    assert function((b + n) ** 2) == "({b,n})=>(b+n)*(b+n)"
    assert function(sympy.ceiling(n / b)) == "({b,n})=>Math.ceil(n/b)"
    assert function(7) == "({})=>7"


def test_every_script_is_in_the_page() -> None:
    folder = Path(memmodel.explorer.__file__).parent
    assert sorted(path.stem for path in folder.glob("*.js")) == sorted((*SCRIPTS, "loader", "python", "step"))


def test_structures_differ_in_their_keys() -> None:
    keys = [structure.key for structure in structures()]
    assert len(keys) == len(set(keys))
    assert all(f"naive train causal {ones}" in keys for ones in ONES)

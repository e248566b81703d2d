"""Looking a GPU up is part of every command's start, so it stays light."""

import subprocess
import sys
from pathlib import Path

from memmodel.base.files import DATA, tables

HEAVY = ("numpy", "sympy", "torch", "pynvml", "rich", "click", "difflib")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_and_loading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from memmodel.gpus import load_gpu; load_gpu('A100').source('bandwidth');"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_importing_alone_does_not_even_parse_toml() -> None:
    assert run("import sys, memmodel.gpus; print('tomllib' in sys.modules)").strip() == "False"


def test_a_lookup_reads_one_file_which_holds_what_the_toml_files_hold() -> None:
    code = (
        "import os, sys; from memmodel.gpus import load_gpu; read = [];"
        "watch = lambda event, args: event == 'open' and '/data/' in str(args[0]) and read.append(args[0]);"
        "sys.addaudithook(watch); load_gpu('H100'); print([os.path.basename(name) for name in read])"
    )
    assert run(code).strip() == "['tables.jsonl']"
    written = Path(DATA, "tables.jsonl").read_text(encoding="utf-8")
    assert written == tables(), "a TOML file in memmodel/data has changed: run python -m memmodel.base.files"

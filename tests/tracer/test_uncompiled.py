"""A trace does without torch.compile, and leaves it as it was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)  # the first test waits for all processes

BEGIN = """
import gc, importlib, json, sys, torch, memmodel
from unittest import mock
from memmodel.tracer.private import fake
from traced_functions import INPUTS, SIZES, in_chunks, three_names

def traced():
    found = memmodel.trace(three_names, INPUTS, step="train", at=SIZES)
    peaks = {phase: [str(b.expression) for b in branches] for phase, branches in found.forms.peaks.items()}
    return [peaks, found.memory.phase_peaks]

def imported():
    return [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules]
"""
COMPILER = """
usual, before = traced(), imported()
marked = torch._subclasses.fake_tensor.FakeTensorMode.__torch_dispatch__.__wrapped__
left = "_dynamo" in vars(torch), "__dynamo_disable" in vars(marked)
compiled = torch.compile(lambda x: x * 2 + 1, backend="eager")(torch.ones(3)).tolist()
print(json.dumps([before, left, compiled, traced() == usual]))
"""
DECORATED = """
@torch.compile
def compiled(x):
    return (x * 2).softmax(-1)

found = memmodel.trace(compiled, {"x": "N,8"}, step="train", at={"N": 100}, formulas=False)
plain = memmodel.trace(lambda x: (x * 2).softmax(-1), {"x": "N,8"}, step="train", at={"N": 100}, formulas=False)
print(json.dumps(found.memory == plain.memory))
"""
GARBAGE = """
from memmodel.base.device import CUDA
from memmodel.tracer.watch.run import Setting
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.formulas.symbolic import hints, traced_in_letters

setting = Setting(in_chunks, inputs_of(INPUTS), "train", CUDA)
gc.disable()
gc.set_debug(gc.DEBUG_SAVEALL)
traced_in_letters(setting, hints("BHND", SIZES))
gc.collect()
print(json.dumps(sum(type(x).__name__ == "FakeTensor" for x in gc.garbage)))
"""
GONE = """
gone = [
    ("_asks", mock.Mock(side_effect=ImportError("_disable_dynamo"))),
    ("_letters", mock.Mock(side_effect=AttributeError("GuardSource"))),
    ("_config", mock.Mock(side_effect=ModuleNotFoundError("torch._dynamo.config"))),
    ("_config", mock.Mock(return_value=sys)),  # it is there, and means something else
    ("_references", mock.Mock(side_effect=ImportError("global_decomposition_table"))),
]

def asked(name, instead):
    found, really = [], importlib.import_module

    def imports(module):
        return found.append(module) if module in (fake._COMPILER, fake._VALIDATOR) else really(module)

    with mock.patch.object(fake, name, instead), mock.patch.object(importlib, "import_module", imports):
        fake.does_without_compiler.__wrapped__()
    return found
"""
USUAL = f"""{GONE}
print(json.dumps([imported(), traced(), imported(), [asked(*each) for each in gone]]))
"""
# In a process whose first trace finds that a name is gone, with the others gone after it.
WITHOUT = f"""{GONE}
found = []
for name, instead in gone:
    with mock.patch.object(fake, name, instead):
        found.append(traced())
print(json.dumps([imported(), found]))
{GARBAGE}
"""
FORKS = f"""{BEGIN}
import os, torch.fx.experimental.symbolic_shapes

for code in json.load(sys.stdin):
    child = os.fork()
    if not child:
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, code
"""


@pytest.fixture(scope="module")
def printed() -> dict[str, list[Any]]:
    """What each code prints as JSON, in a process of its own: forks of one that has imported PyTorch."""
    codes = {"compiler": COMPILER + DECORATED, "garbage": GARBAGE, "usual": USUAL, "without": WITHOUT}
    ends = "print()\n"  # an empty line
    command, folder = [sys.executable, "-c", FORKS], Path(__file__).parent
    given = json.dumps([code + ends for code in codes.values()])
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    parts = done.stdout.removesuffix("\n\n").split("\n\n")
    return {name: [*map(json.loads, part.splitlines())] for name, part in zip(codes, parts, strict=True)}


def test_a_trace_imports_no_compiler_and_the_compiler_works_after_it(printed: dict[str, list[Any]]) -> None:
    assert printed["compiler"][0] == [[], [False, False], [3.0, 3.0, 3.0], True]


def test_a_function_that_was_compiled_before_is_traced_as_it_is(printed: dict[str, list[Any]]) -> None:
    assert printed["compiler"][1] is True


def test_no_tensor_waits_for_the_garbage_collector(printed: dict[str, list[Any]]) -> None:
    """Else its death would come by chance. The compiler, once imported, changes nothing about it."""
    assert [printed["garbage"][0], printed["without"][1]] == [0, 0]


def test_without_one_of_the_private_names_the_compiler_is_imported(printed: dict[str, list[Any]]) -> None:
    """Slower, and the same to the byte."""
    ((none, usual, still_none, asked),) = printed["usual"]
    assert none == still_none == []
    assert asked == 5 * [["torch._dynamo", "torch.fx.experimental.validator"]]
    imported, found = printed["without"][0]
    assert "torch._dynamo" in imported
    assert found == 5 * [usual]

"""A trace does without torch.compile, and leaves it as it was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CODE = """
import json, sys, torch, memmodel
from traced_functions import INPUTS, SIZES, three_names

found = memmodel.trace(three_names, INPUTS, step="train", at=SIZES)
imported = [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules]
marked = torch._subclasses.fake_tensor.FakeTensorMode.__torch_dispatch__.__wrapped__
left = "_dynamo" in vars(torch), "__dynamo_disable" in vars(marked)
compiled = torch.compile(lambda x: x * 2 + 1, backend="eager")(torch.ones(3)).tolist()
again = memmodel.trace(three_names, INPUTS, step="train", at=SIZES)
same = again.forms.peaks == found.forms.peaks and again.memory == found.memory
print(json.dumps([imported, left, compiled, same]))
"""
GARBAGE = """
import gc, json
from traced_functions import INPUTS, SIZES, in_chunks
from memmodel.base.device import CUDA
from memmodel.tracer.watch.run import Setting
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.formulas.symbolic import hints, traced_in_letters

setting = Setting(in_chunks, inputs_of(INPUTS), "train", CUDA)
traced_in_letters(setting, hints("BHND", SIZES))
gc.collect()
gc.disable()
gc.set_debug(gc.DEBUG_SAVEALL)
traced_in_letters(setting, hints("BHND", SIZES))
gc.collect()
print(json.dumps(sum(type(x).__name__ == "FakeTensor" for x in gc.garbage)))
"""


FORKS = """
import json, os, sys, torch, memmodel.tracer.api

for code in json.load(sys.stdin):
    child = os.fork()
    if not child:
        exec(code, {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, code
"""


def run(*codes: str) -> list[Any]:
    """What each code prints as JSON, in a process of its own: forks of one that has imported PyTorch."""
    command, folder = [sys.executable, "-c", FORKS], Path(__file__).parent
    done = subprocess.run(command, input=json.dumps(codes), capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_trace_imports_no_compiler_and_the_compiler_works_after_it() -> None:
    assert run(CODE) == [[[], [False, False], [3.0, 3.0, 3.0], True]]


def test_no_tensor_waits_for_the_garbage_collector() -> None:
    """Else its death would come by chance. The compiler, once imported, changes nothing about it."""
    beside_the_compiler = f"from memmodel.tracer.private import fake\nfake._trial = lambda: False\n{GARBAGE}"
    assert run(GARBAGE, beside_the_compiler) == [0, 0]


MISSING = """
import json, sys, torch, memmodel
import torch._compile
from unittest import mock
from memmodel.tracer.private import fake
from traced_functions import INPUTS, SIZES, three_names

with mock.patch.object(fake, NAME, GONE):
    found = memmodel.trace(three_names, INPUTS, step="train", at=SIZES)
peaks = {phase: [str(b.expression) for b in branches] for phase, branches in found.forms.peaks.items()}
print(json.dumps(["torch._dynamo" in sys.modules, peaks, found.memory.phase_peaks]))
"""


GONE = [
    ("_asks", "mock.Mock(side_effect=ImportError('_disable_dynamo'))"),
    ("_letters", "mock.Mock(side_effect=AttributeError('GuardSource'))"),
    ("_config", "mock.Mock(side_effect=ModuleNotFoundError('torch._dynamo.config'))"),
    ("_config", "mock.Mock(return_value=sys)"),  # it is there, and means something else
    ("_references", "mock.Mock(side_effect=ImportError('global_decomposition_table'))"),
]


def test_without_one_of_the_private_names_the_compiler_is_imported() -> None:
    """Slower, and the same to the byte."""
    usual = MISSING.replace("with mock.patch.object(fake, NAME, GONE):", "with mock.patch.dict({}):")
    without = [MISSING.replace("NAME", repr(name)).replace("GONE", gone) for name, gone in GONE]
    (imported, *expected), *found = run(usual, *without)
    assert not imported
    assert found == len(GONE) * [[True, *expected]]


DECORATED = """
import json, torch, memmodel

@torch.compile
def compiled(x):
    return (x * 2).softmax(-1)

found = memmodel.trace(compiled, {"x": "N,8"}, step="train", at={"N": 100}, formulas=False)
plain = memmodel.trace(lambda x: (x * 2).softmax(-1), {"x": "N,8"}, step="train", at={"N": 100}, formulas=False)
print(json.dumps(found.memory == plain.memory))
"""


def test_a_function_that_was_compiled_before_is_traced_as_it_is() -> None:
    assert run(DECORATED) == [True]

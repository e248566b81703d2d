"""What importing loads. Which module may import which is in `.importlinter`, checked by `make lint`."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import memmodel
import memmodel_kernels

ROOT = Path(memmodel.__file__).parents[1]
ON_DEMAND = (  # imported by the command that asks, or for a file of the user's
    "cli", "report", "explorer", "tracer", "closed_forms", "sweeps", "snapshot", "base.checked", "events.moments",
    "gpus.schema", "models.sweep", "sizes.columns", "sizes.polynomials", "timing.schema",
)  # fmt: skip


def test_the_model_and_its_algorithms_load_the_standard_library_alone() -> None:
    names = [m.name for m in pkgutil.walk_packages(memmodel.__path__, "memmodel.") if m.name != "memmodel.__main__"]
    names = [name for name in names if not name.removeprefix("memmodel.").startswith(ON_DEMAND)]
    names += [m.name for m in pkgutil.iter_modules(memmodel_kernels.__path__, "memmodel_kernels.") if not m.ispkg]
    code = f"import sys; before = set(sys.modules); import {', '.join(names)}; print(*set(sys.modules) - before)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    loaded = {name.partition(".")[0] for name in output.split()}
    assert loaded - set(sys.stdlib_module_names) == {"memmodel", "memmodel_kernels"}

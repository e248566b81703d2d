"""Ranks of a test: processes on gloo, forks of one that has imported what they do, so that it is imported once.

That includes what PyTorch imports late: sympy in the first backward, tensors over devices in the first comparison.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_FORKS = """
import gc, os, runpy, sys
import torch.distributed as dist
import torch.distributed.tensor, torch.fx.experimental.symbolic_shapes

world, meeting, worker, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(worker, run_name="its imports")
gc.freeze()
left = set()
for rank in range(int(world)):
    child = os.fork()
    if not child:
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=int(world))
        runpy.run_path(worker, run_name="__main__")
        dist.destroy_process_group()
        sys.stdout.flush()
        os._exit(0)
    left.add(child)
while left:
    child, status = os.wait()
    left.remove(child)
    if status:
        sys.exit(1)
"""


def run_ranks(world: int, worker: Path, folder: Path, *words: str) -> None:
    """Run a script as each of `world` ranks of a group that they have joined. Its own assertions fail the test.

    The ranks meet at a file in `folder`. None of them is left behind.
    """
    command = [sys.executable, "-c", _FORKS, str(world), str(folder / "meeting"), str(worker), *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ranks = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    try:
        said = ranks.communicate(timeout=120)[1].decode()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(ranks.pid, signal.SIGKILL)
    assert ranks.returncode == 0, said

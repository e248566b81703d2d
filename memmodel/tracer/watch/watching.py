"""Everything that must be on while PyTorch code is watched: fake tensors, the watcher, CUDA's choices, replacements."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from memmodel.rules.sdpa import Backends
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.private.fake import FakeTensorMode, fake_mode, uncompiled
from memmodel.tracer.private.patches import Hooks, patched
from memmodel.tracer.watch.functions import Functions
from memmodel.tracer.watch.watcher import Watcher


@contextmanager
def watching(
    watcher: Watcher,
    backends: Backends | None = None,
    mode: FakeTensorMode | None = None,
    begins: Callable[[Sequence[Any]], None] | None = None,
    ends: Callable[[], None] | None = None,
    chip: Chip | None = None,
) -> Iterator[None]:
    """Within, PyTorch code runs on tensors without data, and `watcher` records it.

    `begins` is called with the roots before autograd's engine runs, `ends` after it; by default they set
    `watcher.backward`.
    """

    def backward(_: Sequence[Any]) -> None:
        watcher.backward = True

    def forward() -> None:
        watcher.backward = False

    functions = Functions(watcher, backends or Backends())
    hooks = Hooks(
        begins or backward, ends or forward, functions, watcher.note_thread, watcher.host.has, chip or Chip(),
        functions.values.statistic,
    )  # fmt: skip
    with uncompiled(FakeTensorMode, Watcher), ExitStack() as stack:
        stack.enter_context(functions.autocast.installed())
        stack.enter_context(patched(hooks, functions.replacements(), functions.cuda))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(mode or fake_mode(allow_non_fake_inputs=True))
        stack.enter_context(watcher)
        stack.enter_context(functions)
        yield

"""What holds for all tests: one thread each, and the same examples every time."""

import functools
import gc
import os
import pickle
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from made_once import made_once

# Tests run side by side, one to a core: a second thread of PyTorch or numpy waits for its core by spinning, which makes
# ten times the work. Both read this when they are imported, later than here; what a test starts inherits it.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else a process of workers, which import PyTorch again

# Programs that tests start read and write byte code, as those of an installed package do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A run is red or green for what changed, not by chance or load.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Chromium, what Triton compiles or interprets, and what goes through all tables on record."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
        if folder_mark := {"kernels": "compiler", "records": "slow"}.get(item.path.parent.name):
            item.add_marker(folder_mark)


def pytest_collection_finish() -> None:
    """Leave the modules and tests that exist by now out of garbage collection: a full pass over them takes a second.

    Recordings and traces make objects by the hundred thousand, few of them in cycles: those are looked for more seldom.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def judged_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Other people's runs and published models are judged in one process, for the others to read, where asked for."""
    from memmodel_evidence import judging, models

    def read(judge: Callable[[], object]) -> object:
        path = made_once(tmp_path_factory, judge.__name__, lambda path: path.write_bytes(pickle.dumps(judge())))
        return pickle.loads(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        for module, judge in ((judging, judging.others_on_record), (models, models.figures)):
            patch.setattr(module, judge.__name__, functools.cache(functools.partial(read, judge)))
        yield


@pytest.fixture(scope="module")
def without_advice() -> Iterator[None]:
    """For tests of traces that look at no advice, for which the function is traced again as it could be rewritten."""
    from memmodel.tracer import api

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "advice_of", lambda *_: [])
        yield

"""The worker process: it reads a job as JSON from stdin, runs its trial, and writes the answer as JSON to stdout.

`python -m memmodel_validate.worker`, started by `memmodel_validate.processes`. An exception is an answer too;
of a crash the parent sees the exit status.
"""

import json
import os
import sys
from typing import Any

from memmodel.base.errors import UsageError
from memmodel_validate.processes import end_with
from memmodel_validate.suite import Trial, case_of


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to a job: its `do` is "probe", "measure" or "fit"."""
    import torch

    try:
        return _answer(job)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    except UsageError as error:
        return {"failed": str(error)}
    except Exception as error:
        if "can't allocate memory" in str(error):  # the CPU's allocator raises a plain RuntimeError
            return {"out_of_memory": True}
        return {"failed": f"{type(error).__name__}: {error}"}


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    if job["do"] == "probe":
        from memmodel_validate import cuda

        return cuda.probe()
    case = case_of(job["case"], job["algorithm"])
    trial = Trial(job["name"], job["implementation"], case)
    if job["do"] == "fit":
        from memmodel_validate import cuda

        return {"runs": cuda.runs_within(trial, job["cap"])}
    if job["device"] == "cuda":
        from memmodel_validate import cuda

        return cuda.measure(trial, job["threads"], job["protocol"])
    from memmodel_validate import cpu_events

    return cpu_events.measure(trial, job["threads"], job["protocol"])


def main() -> None:
    """Answer one job. Whatever libraries print goes to stderr."""
    kept = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.buffer.read())
    end_with(job["parent"])
    found = answer(job)
    with os.fdopen(kept, "w", encoding="utf-8") as out:
        json.dump(found, out)


if __name__ == "__main__":
    main()

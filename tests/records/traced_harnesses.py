"""A recorded table's harness as PyTorch code, traced: the same function that recording tensors run through."""

import torch

from memmodel.base.device import CUDA
from memmodel.events.program import Program
from memmodel.tracer.watch.watcher import Watcher
from memmodel.tracer.watch.watching import watching
from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.harnesses.script import Row

EAGER = [name for name in HARNESSES if "compiled" not in name]  # compiled code is not traced


def traced(table: str, row: Row) -> Program:
    """The program of a row's harness on tensors without data, as CUDA allocates; the table is one of EAGER."""
    watcher = Watcher(CUDA)
    with watching(watcher):
        HARNESSES[table](torch, row, watcher.mark)
    program = watcher.program
    watcher.close()
    return program

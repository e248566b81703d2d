"""The program of a model's step: recorded, with the formats of its weights and cache."""

from memmodel.model.packing import packed
from memmodel.model.record import record
from memmodel.model.setting import ModelCase
from memmodel.program import Program


def program_of(case: ModelCase) -> Program:
    """The program of a step in the steady state."""
    return packed(record(case), case)

"""Serving a model: what a token of context takes, how much fits, and the times of a prompt and of a token."""

from dataclasses import replace
from typing import NamedTuple

from memmodel.allocator import AllocatorConfig
from memmodel.gpus import Gpu
from memmodel.models.architecture import parameters
from memmodel.models.capacity import model_threshold
from memmodel.models.kv_cache import cache_bytes
from memmodel.models.program import program_of
from memmodel.models.quantization import weight_bytes
from memmodel.models.setting import ModelCase
from memmodel.prediction import Time
from memmodel.step import room_bytes, time_or_why
from memmodel.timing import Machine


class Serving(NamedTuple):
    """How a GPU serves a model.

    Attributes:
        weight_bytes: of all parameters, in their format. bits: of a parameter on average.
        token_bytes: that one token more takes in the cache of a sequence as long as the case's.
        sequence_bytes: of the cache of one sequence of `seq` tokens.
        longest_context: the most tokens of each of `batch` sequences while decoding; 0 where not even one fits.
        most_sequences: of `seq` tokens while decoding.
        first_token_seconds: of a prompt of `seq` tokens; None without a rate.
        token_seconds: from one token of a sequence to the next, eager. graph_seconds: of the kernels alone, as with
            CUDA graphs, which need no dispatch.
    """

    weight_bytes: int
    bits: float
    token_bytes: int
    sequence_bytes: int
    longest_context: int | None
    most_sequences: int | None
    first_token_seconds: float | None
    token_seconds: float | None
    graph_seconds: float | None


def serving(case: ModelCase, gpu: Gpu, machine: Machine, config: AllocatorConfig | None = None) -> Serving:
    """How a GPU serves `batch` sequences of `seq` tokens."""
    arch, itemsize = case.arch, case.dtype.itemsize
    weights = int(sum(weight_bytes(arch, case.quantize, itemsize).values()))
    count = sum(parameters(arch).values(), start=0)
    # The bytes of one token more: none in layers whose window is full.
    kept = [int(cache_bytes(arch, case.seq + more, case.kv_cache, itemsize, case.read)) for more in (0, 1)]
    decoding = replace(case, phase="decode")
    known = room_bytes(gpu) is not None
    token = time_or_why(program_of(decoding), machine)[0]
    return Serving(
        weights,
        8 * weights / count,
        kept[1] - kept[0],
        kept[0],
        model_threshold(decoding, gpu, "seq", config=config).largest if known else None,
        model_threshold(decoding, gpu, "batch", config=config).largest if known else None,
        _seconds(time_or_why(program_of(replace(case, phase="prefill")), machine)[0]),
        _seconds(token),
        None if token is None else token.seconds - token.shares.get("dispatch", 0.0),
    )


def _seconds(time: Time | None) -> float | None:
    return None if time is None else time.seconds

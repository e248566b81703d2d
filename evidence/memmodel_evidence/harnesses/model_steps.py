"""The recorded scripts that train or run a whole model: what one of their steps does, in PyTorch.

A builder takes the model and a row's case and gives the step, a function of tokens and targets (b, n). What a script's
names hold until the step is over, and what it zeroes when, is as the script has it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memmodel_evidence.harnesses.language_model import VOCABULARY, AdamW, LanguageModel, cross_entropy

_UNTIL_SETTLED = 3  # steps of a kind, after which more change nothing

Case = Mapping[str, Any]
Step = Callable[[Tensor, Tensor], None]


class Script(NamedTuple):
    """A script.

    Attributes:
        step: builds its step. emptied: whether it empties the allocator's cache before the step that it measures.
        whole_run: whether its peaks are those of the whole run, not of that step.
        steps: how many it takes, where they are not all alike; 0: until nothing changes.
    """

    step: Callable[[LanguageModel, Case], Step]
    emptied: bool = False
    whole_run: bool = False
    steps: int = 0


def _casting(case: Case) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", dtype=torch.bfloat16) if case["dtype"] == "bf16" else nullcontext()


def without_gradients(model: LanguageModel, case: Case) -> Step:
    """BraveBeter, LINYUNLinYun: forward under no_grad, the logits dropped."""

    def step(tokens: Tensor, targets: Tensor) -> None:
        with torch.no_grad(), _casting(case):
            model(tokens)

    return step


def inference_mode(model: LanguageModel, case: Case) -> Step:
    """Okazaki-Yumemi: forward in inference mode."""

    def step(tokens: Tensor, targets: Tensor) -> None:
        with torch.inference_mode(), _casting(case):
            logits = model(tokens)
        del logits

    return step


def with_graph(model: LanguageModel, case: Case) -> Step:
    """EnzoDing, yyin: forward with its graph."""

    def step(tokens: Tensor, targets: Tensor) -> None:
        with _casting(case):
            logits = model(tokens)
        del logits

    return step


def by_hand(model: LanguageModel, case: Case) -> Step:
    """BraveBeter, Okazaki-Yumemi: the loss by hand under autocast, AdamW by hand where the row trains."""
    optimizer = AdamW(model.parameters())

    def step(tokens: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with _casting(case):
            logits = model(tokens)
            loss = cross_entropy(logits, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        if case["step"] == "train":
            optimizer.step()

    return step


def by_hand_apart(model: LanguageModel, case: Case) -> Step:
    """EnzoDing: as by hand, the loss in a region of autocast of its own."""
    optimizer = AdamW(model.parameters())

    def step(tokens: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with _casting(case):
            logits = model(tokens)
        with _casting(case):
            loss = cross_entropy(logits, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def all_under_autocast(model: LanguageModel, case: Case) -> Step:
    """yyin: backward and AdamW by hand are under autocast too."""
    optimizer = AdamW(model.parameters())

    def step(tokens: Tensor, targets: Tensor) -> None:
        with _casting(case):
            optimizer.zero_grad()
            logits = model(tokens)
            loss = cross_entropy(logits, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return step


def loss_alone(model: LanguageModel, case: Case) -> Step:
    """BraveBeter's later scripts: no name for the logits, PyTorch's AdamW."""
    optimizer = torch.optim.AdamW(model.parameters())

    def step(tokens: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with _casting(case):
            loss = cross_entropy(model(tokens), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def by_phase(model: LanguageModel, case: Case) -> Step:
    """BraveBeter's comparison with a compiled model, run eagerly: one process goes through four kinds of step.

    Forward with its graph, backward of a graph that stays, both without AdamW, and a training step. What one kind
    leaves in the allocator's cache decides where the next one's blocks lie.
    """
    optimizer = torch.optim.AdamW(model.parameters())
    kept: list[Tensor] = []  # the loss whose graph stays

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        with _casting(case):
            return cross_entropy(model(tokens), targets)

    def forward(tokens: Tensor, targets: Tensor) -> None:
        with _casting(case):
            model(tokens)

    def backward(tokens: Tensor, targets: Tensor) -> None:
        if not kept:
            kept.append(loss(tokens, targets))
        torch.autograd.grad(kept[0], tuple(model.parameters()), retain_graph=True)

    def both(tokens: Tensor, targets: Tensor) -> None:
        kept.clear()
        torch.autograd.grad(loss(tokens, targets), tuple(model.parameters()))

    def train(tokens: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        alive = loss(tokens, targets)
        alive.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    kinds, calls = (forward, backward, both, train), count()

    def step(tokens: Tensor, targets: Tensor) -> None:
        kinds[next(calls) // _UNTIL_SETTLED % len(kinds)](tokens, targets)

    return step


def loss_in_fp32(model: LanguageModel, case: Case) -> Step:
    """LINYUNLinYun: PyTorch's loss outside autocast, and its AdamW."""
    optimizer = torch.optim.AdamW(model.parameters())

    def step(tokens: Tensor, targets: Tensor) -> None:
        with _casting(case):
            logits = model(tokens)
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, VOCABULARY), targets.reshape(-1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


SCRIPTS: dict[tuple[str, str], Script] = {  # by source and kind of step
    ("bravebeter-model", "forward"): Script(without_gradients),
    ("bravebeter-model", "forward and backward"): Script(by_hand),
    ("bravebeter-model-2", "train"): Script(loss_alone),
    ("enzo-model", "forward"): Script(with_graph, emptied=True),
    ("enzo-model", "train"): Script(by_hand_apart, emptied=True),
    # The cache is emptied in a later version only: the logs' own commits have none of that (75c885f adds it).
    ("linyun-model", "forward"): Script(without_gradients),
    ("linyun-model", "train"): Script(loss_in_fp32),
    ("linyun-model-2", "train"): Script(loss_in_fp32),
    ("yyin-model", "forward"): Script(with_graph),
    ("yyin-model", "train"): Script(all_under_autocast),
    ("okazaki-model", "forward"): Script(inference_mode, whole_run=True),
    ("okazaki-model", "train"): Script(by_hand, whole_run=True),
}


_BY_PHASE = Script(by_phase, whole_run=True, steps=4 * _UNTIL_SETTLED)


def script_of(source: str, case: Case) -> Script:
    """The script of a row. BraveBeter's small model is of another than its medium ones with checkpoints."""
    if source == "bravebeter-model-2" and case["model"] == "small":
        return _BY_PHASE
    return SCRIPTS[source, case["step"]]


def place_in_process(source: str, case: Case) -> tuple[Any, ...] | None:
    """The place of a row among those that ran in one process, or None where each had its own.

    EnzoDing's suite (memory_profiling/suite.py) runs its cells in a loop: lengths, then modes, then types.
    """
    if source != "enzo-model" or "checkpoint" in case:
        return None
    return case["seq"], case["step"], case["dtype"] == "bf16"

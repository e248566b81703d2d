"""Pipeline stages: ranks that share the layers, each with some of them, through which micro-batches go one by one.

After torch.distributed.pipelining (stage.py): a rank has a buffer for the input of every micro-batch and one for the
gradient of its output, made once. The gradients of inputs are those buffers' and are there until the next step begins;
outputs are held until their backward.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from memmodel.models.schedule import Action
from memmodel_kernels.decoder import Decoder, hidden_states
from memmodel_kernels.namespace import autocast, namespace, next_action
from memmodel_kernels.parallel.group import Group

Loss = Callable[[Decoder, Any, Any], tuple[Any, Any]]


class Pipeline(NamedTuple):
    """A rank's part of the pipeline.

    Attributes:
        group: its ranks, in the order of stages.
        chunks: this rank's parts of the model; chunk c of rank r is stage c · ranks + r of all.
        inputs, gradients: a buffer for the input, and for the gradient of the output, of each chunk (none for the
            first and the last stage of all) and micro-batch.
        actions: what the rank runs, one after the other. done: gradients of inputs that are there before.
        low_precision: the dtype of autocast around forwards; None without.
    """

    group: Group
    chunks: Sequence[Decoder]
    inputs: Sequence[Sequence[Any]]
    gradients: Sequence[Sequence[Any]]
    actions: Sequence[Action]
    done: Sequence[Any] = ()
    low_precision: Any = None

    def forward_and_backward(self, batch: tuple[Any, Any], loss: Loss, mark: Callable[[str], None]) -> None:
        """All micro-batches of a step, each of token indices and targets (b, n)."""
        held: dict[tuple[int, int], Any] = {}  # outputs until their backward, by chunk and micro-batch
        sending: dict[Action, Any] = {}
        # What the first action reads.
        self._exchange(None, None, self.actions[0], batch[0])
        phases = _phases(self.actions)
        for number, (action, following) in enumerate(zip(self.actions, [*self.actions[1:], None], strict=True)):
            if number in phases:
                mark(phases[number])
            next_action(batch[0])
            place = action.chunk, action.micro_batch
            if action.kind == "F":
                held[place] = self._forward(action, batch, loss)
            else:
                self._backward(held.pop(place), action)
                _wait(sending.pop(action._replace(kind="F"), ()))  # no time: its gradient has come back
            sending[action] = self._exchange(action, held.get(place), following, batch[0])
        while sending:
            _wait(sending.popitem()[1])

    def forget(self) -> None:
        """Let go of the inputs' gradients, as the next step does when it begins."""
        for of_chunk in self.inputs:
            for buffer in of_chunk:
                buffer.grad = None

    def _forward(self, action: Action, batch: tuple[Any, Any], loss: Loss) -> Any:
        """The output of a chunk; of the last one, the loss and the logits."""
        model, (tokens, targets) = self.chunks[action.chunk], batch

        def run(x: Any) -> Any:
            hidden = hidden_states(model, tokens, stream=None if model.first else x)
            return loss(model, hidden, targets) if model.last else hidden

        with nullcontext() if self.low_precision is None else autocast(tokens, self.low_precision):
            return model.around(None, run, tokens if model.first else self.inputs[action.chunk][action.micro_batch])

    def _backward(self, out: Any, action: Action) -> None:
        if self.chunks[action.chunk].last:
            out[0].backward()
        else:
            out.backward(self.gradients[action.chunk][action.micro_batch])

    def _exchange(self, done: Action | None, out: Any, following: Action | None, like: Any) -> Any:
        """Begin to send what an action made, and receive what the next one needs; returns the sends under way.

        Both begin together, as two ranks may each wait for the other's.
        """
        distributed = namespace(like).distributed
        received = None if following is None else self._needed(following)
        sent = None if done is None else self._made(done, out)
        operations = []
        if following is not None and received is not None:
            operations.append(self._operation(distributed, "irecv", received, -1 if following.kind == "F" else 1))
        if done is not None and sent is not None:
            operations.append(self._operation(distributed, "isend", sent, 1 if done.kind == "F" else -1))
        works = distributed.batch_isend_irecv(operations) if operations else []
        if received is not None:
            # The receive is the first of the operations.
            works.pop(0).wait()
        return works

    def _operation(self, distributed: Any, name: str, x: Any, step: int) -> Any:
        """A transfer with the rank some places further on, around the ring of stages."""
        peer = distributed.get_global_rank(self.group.handle, (self.group.rank + step) % self.group.size)
        return distributed.P2POp(getattr(distributed, name), x, peer, self.group.handle)

    def _needed(self, action: Action) -> Any:
        """The buffer that an action reads; None for what the rank has itself."""
        model = self.chunks[action.chunk]
        if action.kind == "F":
            return None if model.first else self.inputs[action.chunk][action.micro_batch].detach()
        return None if model.last else self.gradients[action.chunk][action.micro_batch]

    def _made(self, action: Action, out: Any) -> Any:
        """The tensor that an action makes for another rank; None at the ends."""
        model = self.chunks[action.chunk]
        if action.kind == "F":
            return None if model.last else out.detach()
        return None if model.first else self.inputs[action.chunk][action.micro_batch].grad


def _phases(actions: Sequence[Action]) -> dict[int, str]:
    """Where phases begin: forwards alone, then both in turn, then backwards alone."""
    kinds = [action.kind for action in actions]
    first, last = kinds.index("B"), len(kinds) - kinds[::-1].index("F")  # backward, and the place after a forward
    return {0: "forward", **({first: "forward and backward"} if first < last else {}), last: "backward"}


def _wait(works: Sequence[Any]) -> None:
    for work in works:
        work.wait()

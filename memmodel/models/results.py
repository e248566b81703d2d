"""The results of a model's prediction as frozen data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from memmodel.base.frozen import Frozen
from memmodel.base.rendering import Renderable
from memmodel.events.account import TensorRecord
from memmodel.events.work import Work
from memmodel.gpus import Gpu
from memmodel.gpus.links import Node
from memmodel.models.layout import Rank
from memmodel.models.serving import Serving
from memmodel.models.setting import ModelCase
from memmodel.models.step_time import StepTime
from memmodel.prediction import Memory, Mitigation, Time


class Peak(NamedTuple):
    """Where in the step the live peak is.

    Attributes:
        phase: "forward", "backward" or "optimizer"; of a pipeline stage also "forward and backward", in turn.
        group: that of the tensor with which the peak is reached.
        tensor: the operator that allocates it.
    """

    phase: str
    group: str
    tensor: str

    @property
    def words(self) -> str:
        """The moment as a phrase."""
        of = f" ({self.group})" if self.group else ""
        return f"in {self.phase}, at {self.tensor}{of}"


class RankMemory(NamedTuple):
    """The memory of the ranks of one kind.

    Attributes:
        title: "stage 1 of 4", or "all". rank: the first of them. ranks: how many there are. memory: of one.
    """

    title: str
    rank: Rank
    ranks: int
    memory: Memory


class Efficiency(NamedTuple):
    """A step's time as throughput.

    Attributes:
        tokens_per_second: of the step.
        mfu: the model's FLOP (see `memmodel.models.flops`) over those that the GPU could do in the time.
    """

    tokens_per_second: float
    mfu: float | None


class ModelPrediction(Renderable, Frozen):
    """A step of a model on a GPU.

    Attributes:
        case: the model and the setting. title: the step's name for people.
        parameters: by part of the model.
        memory, work: of one step. `memory.groups` are the bytes of each group at the live peak.
        formulas: of each group, in the letters of `memmodel.models.letters`.
        peak: where in the step the peak is.
        model_flops: that the step needs by the weights and the scores alone, without what is recomputed.
        time: the datasheet's lower bound; None where the GPU's data lack a rate. calibrated: the time to expect.
        efficiency: of the time to expect, else of the lower bound; None without a time.
        tensors: the account of the step, largest first. notes: what else to know.
        step: on many GPUs, what the time to expect (else the bound) is made of. node: the machine that they are in.
        ranks: on many GPUs, the memory of each kind of rank; `memory` and `work` are those of the fullest.
    """

    case: ModelCase
    title: str
    parameters: Mapping[str, int]
    memory: Memory
    formulas: Mapping[str, str]
    peak: Peak
    work: Work
    model_flops: int
    time: Time | None
    calibrated: Time | None
    efficiency: Efficiency | None
    tensors: Sequence[TensorRecord]
    notes: tuple[str, ...]
    step: StepTime | None = None
    node: Node | None = None
    ranks: tuple[RankMemory, ...] = ()


class ModelReport(Renderable, Frozen):
    """The prediction of a model's step on one GPU.

    Attributes:
        gpu, predictions: the GPU, and the only prediction.
        serving: in generation, what a token takes and how much fits; None in training.
        mitigations: changes that lower the memory. assumptions: what was taken as given.
    """

    gpu: Gpu
    predictions: tuple[ModelPrediction, ...]
    serving: Serving | None
    mitigations: Sequence[Mitigation]
    assumptions: tuple[str, ...]

    @property
    def prediction(self) -> ModelPrediction:
        """The only prediction."""
        return self.predictions[0]

    def __iter__(self) -> Iterator[ModelPrediction]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)

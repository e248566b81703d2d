"""Every family of rules, registered: what the tracer needs, and recording tensors that do more than attention."""

from memmodel.rules import (  # noqa: F401
    arithmetic,
    attention,
    copies,
    dropout,
    indexing,
    joins,
    losses,
    masks,
    normalization,
    optimizers,
    pointwise,
    products,
    reductions,
    softmax,
    views,
)

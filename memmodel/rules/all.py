"""Import this module to register every family of rules, as the tracer does."""

from memmodel.rules import (  # noqa: F401
    arithmetic,
    attention,
    collectives,
    convolution,
    copies,
    cpu_attention,
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

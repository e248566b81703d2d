"""The time of attention in serving stacks: kernels that others measured, each with a model of few constants."""

from memmodel.timing.serving.call import Call, serves, serving_call
from memmodel.timing.serving.chip import chip_known
from memmodel.timing.serving.kernels import ServingKernel, kernel_names, serving_kernel

__all__ = ["Call", "ServingKernel", "chip_known", "kernel_names", "serves", "serving_call", "serving_kernel"]

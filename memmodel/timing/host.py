"""The host's time for an operation: a property of its processor and of the script, not of the GPU.

The usual values are the medians, the slowest the 95th percentiles, over the scripts on record of time over kernels at
n = 256, where kernels are shorter than their dispatch. A queue that is filled ahead hides it, as in a CUDA graph and in
benchmarks that start calls behind others: so the fastest host takes nothing.
"""

from typing import NamedTuple


class Host(NamedTuple):
    """Seconds that the host takes for an operation of forward, and of backward."""

    forward: float
    backward: float

    def dispatch(self, phase: str) -> float:
        """Seconds for an operation of a phase."""
        return self.backward if phase == "backward" else self.forward


NO_HOST = Host(0.0, 0.0)  # of lower bounds
USUAL = Host(20e-6, 34e-6)
FAST = NO_HOST
SLOW = Host(48e-6, 113e-6)


def host_of(seconds: float) -> Host:
    """A host that takes so long for an operation of forward, and as much longer for one of backward as is usual."""
    return Host(seconds, seconds * USUAL.backward / USUAL.forward)

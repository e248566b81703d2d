"""The host's time for an operation: a property of its processor and of the script, not of the GPU.

The usual values, and their range, are the medians and the 5th and 95th percentiles over the scripts on record of time
over kernels at n = 256, where kernels are shorter than their dispatch. A queue that is filled ahead hides it.
"""

from typing import NamedTuple


class Host(NamedTuple):
    """Seconds that the host takes for an operation of forward, and of backward."""

    forward: float
    backward: float

    def dispatch(self, phase: str) -> float:
        """Seconds for an operation of a phase."""
        return self.backward if phase == "backward" else self.forward


USUAL = Host(20e-6, 34e-6)
FAST = Host(6e-6, 12e-6)  # the lowest is that of `do_bench` on an H100, which queues ahead
SLOW = Host(48e-6, 113e-6)


def host_of(seconds: float) -> Host:
    """A host that takes so long for an operation of forward, and as much longer for one of backward as is usual."""
    return Host(seconds, seconds * USUAL.backward / USUAL.forward)

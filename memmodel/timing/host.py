"""The host: a property of its processor and of the script, not of the GPU.

A host launches kernels one after another, and the GPU runs them in that order: a kernel starts when it has been
launched and the one before it has ended. So long kernels hide the launches behind them, and short ones wait. What
nothing hides is the start of a call and the wait for its end, where the caller waits for the result, as benchmarks do:
`START`.

Over the scripts on record at n = 256, where kernels are shorter than their launches, the usual values have the least
mean relative error, and the slowest are the 95th percentiles (`python -m memmodel_evidence.hosts`). A queue that is
filled ahead hides all of it, as in a CUDA graph and in benchmarks that start calls behind others: so the fastest host
takes nothing.
"""

from typing import NamedTuple

START = {"forward": 3, "backward": 6}  # operations as long as which a call starts and ends; fitted at n = 1024
COMPILED_FIRST = {"forward": 1.0, "backward": 0.4}  # share of a compiled call's host time before its first kernel


class Host(NamedTuple):
    """Seconds of the host.

    Attributes:
        forward, backward: for an operation of each.
        compiled_forward, compiled_backward: for a call of compiled code: its guards, and its wrapper's launches.
    """

    forward: float
    backward: float
    compiled_forward: float
    compiled_backward: float

    def launches(self, phase: str, count: int, compiled: bool = False) -> list[float]:
        """Seconds from a phase's start to the launch of each of its `count` kernels."""
        kind = "backward" if phase == "backward" else "forward"
        if compiled:
            whole = self.compiled_backward if kind == "backward" else self.compiled_forward
            first = whole * COMPILED_FIRST[kind]
            return [first + (whole - first) * (i + 1) / count for i in range(count)]
        each = self.backward if kind == "backward" else self.forward
        return [each * (START[kind] + i + 1) for i in range(count)]

    def launched(self, phase: str, count: int) -> float:
        """Seconds from a phase's start to the launch of the last of its `count` kernels."""
        kind = "backward" if phase == "backward" else "forward"
        each = self.backward if kind == "backward" else self.forward
        return each * (START[kind] + count) if count else 0.0


Hosts = tuple[Host, Host, Host]  # the fastest, the usual and the slowest to expect

NO_HOST = Host(0.0, 0.0, 0.0, 0.0)  # of lower bounds, of CUDA graphs and of full queues
USUAL = Host(9.9e-6, 15e-6, 130e-6, 290e-6)
SLOW = Host(32e-6, 65e-6, 470e-6, 640e-6)
ANY_HOST: Hosts = (NO_HOST, USUAL, SLOW)


SPREAD = 1.5  # within which 9 of 10 short calls are of what their script's calls at n = 256 say


def around(host: Host) -> Hosts:
    """The fastest, the usual and the slowest host to expect where one is known: calls of one script differ, too."""
    return Host(*(seconds / SPREAD for seconds in host)), host, Host(*(seconds * SPREAD for seconds in host))


def host_of(forward: float, backward: float | None = None) -> Host:
    """A host that takes so long for an operation of forward; the rest is as much longer as is usual."""
    ratio = forward / USUAL.forward
    usual = Host(*(ratio * seconds for seconds in USUAL))
    return usual if backward is None else usual._replace(backward=backward)

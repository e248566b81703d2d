"""Functions that torch.compile was asked for more graphs of than it keeps."""

from typing import Any

from memmodel_evidence import attention as scripts


def at_most_eight_graphs(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """torch.compile, its limit of 8 graphs spent: scores beyond int32 indices need one more, so run eager.

    Brandon's function is compiled twice (with and without gradients) for a first shape, for symbolic lengths,
    for int64 indices and for symbolic head dims. At d = 128 and n = 16384 its times are the eager ones (54.42
    ms against 54.20 ms), and its author finds no benefit there. That the limit is the cause is inferred.
    """
    int32_indices = q.shape[0] * q.shape[1] * k.shape[1] < 2**31
    return (scripts.compiled_by_hand if int32_indices else scripts.handout)(xp, q, k, v)


def last_size_runs_eager(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """torch.compile of the library's softmax, its limit of 8 graphs spent when the last size comes.

    TianqGuo compiles one function for 20 sizes in one process. At d = 128 and n = 16384 the peak is the eager one to
    the byte, as are the times (35.17 ms against 35.17 ms).
    """
    last = q.shape[1:] == (16384, 128)
    return (scripts.library_softmax if last else scripts.compiled_library_softmax)(xp, q, k, v)

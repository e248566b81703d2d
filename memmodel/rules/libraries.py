"""Workspaces of vendors' libraries, whose sizes no source states: reports name them, and they count as 0."""

from memmodel.rules.operator import NotKnown

_WORKSPACES = {  # part of an operator's name -> the memory that is not known
    "convolution": "cuDNN's workspace",
    "linalg": "the workspaces of cuSOLVER and MAGMA",
    "cholesky": "the workspaces of cuSOLVER and MAGMA",
    "fft": "cuFFT's workspace",
    "mkldnn_rnn_layer": "cuDNN's LSTM, which runs instead and keeps a reserve of its own",
    "batch_norm": "cuDNN's batch norm, which may run instead and keep a reserve",
    "lstm": "cuDNN's LSTM, which runs instead and keeps a reserve of its own",
    "gru": "cuDNN's GRU, which runs instead and keeps a reserve of its own",
    **dict.fromkeys(
        ("randperm", "histc", "bincount", "kthvalue", "median", "mode", "_embedding_bag", "_cdist_forward",
         "_trilinear", "_ctc_loss", "native_group_norm_backward"), "its scratch",
    ),
}  # fmt: skip
_PLAIN = ("linalg_vector_norm",)  # not a library's, in spite of its name


def library_workspace(op: str) -> NotKnown | None:
    """The note that an operator's workspace on CUDA is not known; None if its memory is known."""
    words = next((words for name, words in _WORKSPACES.items() if name in op and op not in _PLAIN), None)
    return left_out(words) if words else None


def left_out(words: str) -> NotKnown:
    """A note that `words`, memory whose size no source states, count as 0."""
    return NotKnown(f"{words}: counted as 0")

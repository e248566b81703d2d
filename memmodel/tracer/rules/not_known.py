"""What of an operator on CUDA no source states or nobody has read yet: told in the report, counted as 0."""

from typing import Any

from memmodel.tracer.rules.kinds import number

_SHORT_ROWS = 4096  # rows up to this length are sorted in place
_MANY_ROWS = 65536  # layer norm's backward sums more rows than these in two passes
_LIBRARIES = {
    "convolution": "cuDNN's workspace",
    "linalg": "the workspaces of cuSOLVER and MAGMA",
    "cholesky": "the workspaces of cuSOLVER and MAGMA",
    "fft": "cuFFT's workspace",
    "mkldnn_rnn_layer": "cuDNN's LSTM, which runs instead and keeps a reserve of its own",
    "batch_norm": "cuDNN's batch norm, which may run instead and keep a reserve",
    "lstm": "cuDNN's LSTM, which runs instead and keeps a reserve of its own",
    "gru": "cuDNN's GRU, which runs instead and keeps a reserve of its own",
}
FAST_PATH = (
    "PyTorch may take its fast path here, whose memory is not known: traced is the ordinary one "
    "(torch.backends.mha.set_fastpath_enabled(False))"
)
_CUDNN_LAYER = "cuDNN's layer runs instead and keeps a reserve of its own: counted are the CPU's operators"
_FUSED_CELL = "a fused kernel runs instead and keeps a workspace of its own: counted are the CPU's operators"
RECURRENT = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _CUDNN_LAYER),
    **dict.fromkeys(("lstm_cell", "gru_cell"), _FUSED_CELL),
}
_PLAIN_OPERATORS = ("linalg_vector_norm",)


def scratch_not_known(op: str, args: Any) -> str:
    """What is left out of an operator's memory, as the end of a sentence; empty where nothing is."""
    words = _words(op, args)
    return f"{words}: counted as 0" if words else ""


def _words(op: str, args: Any) -> str:
    if op in _PLAIN_OPERATORS:
        return ""
    library = next((words for name, words in _LIBRARIES.items() if name in op), "")
    if library:
        return library
    if op in ("sort", "topk") and args[0].dim():
        return _of_sorting(op, args)
    if op in ("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin") and args[0].dim() == 1:
        return "the look-back of a scan of one row, some KiB"
    if op == "native_layer_norm_backward" and _rows(args[0], args[2]) > _MANY_ROWS:
        return "partial sums over more than 65,536 rows, some MiB"
    if op == "multinomial" and len(args) > 2 and args[2] and args[1] != 1:
        return "the prefix sums of draws with replacement"
    if op in ("embedding_dense_backward", "index_put", "index_put_", "_unsafe_index_put") and _sorts(op, args):
        return "the histograms of its radix sort, tens of KiB"
    if op in ("randperm", "histc", "bincount", "kthvalue", "median", "mode", "_embedding_bag", "_cdist_forward",
              "_trilinear", "_ctc_loss", "native_group_norm_backward"):  # fmt: skip
        return "its scratch"
    return ""


def _of_sorting(op: str, args: Any) -> str:
    dim = args[{"sort": 1, "topk": 2}[op]] if len(args) > {"sort": 1, "topk": 2}[op] else -1
    length = number(args[0].shape[dim if isinstance(dim, int) else -1])
    if op == "sort":
        return "the scratch of sorting rows longer than 4,096" if length > _SHORT_ROWS else ""
    return "the counts of topk by several thread blocks per row, up to 0.5 KiB a block" if length >= 400 else ""


def _rows(x: Any, normalised: Any) -> int:
    elements = number(x.numel())
    for size in normalised:
        elements //= max(1, number(size))
    return elements


def _sorts(op: str, args: Any) -> bool:
    if op == "embedding_dense_backward":
        return number(args[1].numel()) > 3072
    return len(args) > 3 and bool(args[3])

"""Notes on paths of PyTorch on CUDA whose memory is not known: the ordinary path is traced instead."""

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

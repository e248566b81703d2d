"""A GPT as Megatron-LM trains it on TransformerEngine's modules, on tensors of either library."""

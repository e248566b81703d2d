"""A model over several ranks: collectives among them, and layers that they share, on tensors of either library."""

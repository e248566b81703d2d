"""Recorded runs, and real runs compared with predictions."""

"""Formulas of a trace: the same run with letters for sizes, its closed forms, and repeated layers."""

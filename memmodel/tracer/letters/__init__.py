"""Formulas: the run in letters, its closed forms, repeated layers."""

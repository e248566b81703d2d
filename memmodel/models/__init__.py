"""Whole models: what they are made of, where their configurations come from, and the memory and time of their steps."""

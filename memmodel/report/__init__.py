"""Renderers: tables, JSON, CSV. They lay out what a prediction holds and compute nothing."""

"""memmodel: how much memory attention needs, how long it takes and what limits it, before it runs."""

__version__ = "0.1.0"

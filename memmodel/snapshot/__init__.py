"""A recorded CUDA memory snapshot: read safely, its peak by line of code, and its replay under other settings."""

"""Property tests draw the same examples every time: a run is red or green for what changed, not by chance or load."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

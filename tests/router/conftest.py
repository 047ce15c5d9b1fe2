"""Property tests without a deadline, since shared machines stall, and with fixed seeds, so that a failure repeats."""

from hypothesis import settings

settings.register_profile("router", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("router")

"""`palate steer discover` and `palate steer name`: directions of taste that nobody named yet."""

"""Load on a running server, its memory under it, and the report. Speaks HTTP; knows nothing of what it asks for."""

"""`palate fit`: a new artifact from the feedback collected so far."""

"""`palate experiments`: a candidate on a share of people, and what they think of it."""

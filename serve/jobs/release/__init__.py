"""`palate evaluate release`: a candidate against the version in service, before it may replace it."""

"""`palate import`: judgements collected elsewhere become people's feedback."""

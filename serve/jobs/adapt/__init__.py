"""`palate adapt`: a LoRA for a prototype, by preference optimization, judged before it may serve."""

"""Learning from everyone, offline: generations, feature spaces, simulated people, artifacts."""

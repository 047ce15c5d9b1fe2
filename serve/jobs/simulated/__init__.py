"""Evaluation with simulated people: hidden tastes over measured text, feedback and service through the real API."""

"""Inference engines behind one protocol: the real one (vLLM) and a scripted one for fast tests."""

"""Versioned artifacts: what was learned from everyone, published to the request path."""

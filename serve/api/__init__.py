"""The OpenAI-compatible HTTP API; one module a resource."""

"""The process edge: HTTP API, Ray Serve deployments, engines, jobs, command line and metrics."""

__version__ = "0.1.0"

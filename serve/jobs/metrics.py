"""`palate metrics serve | docs`: a node's metrics without its ingress, and the reference page.

On a cluster every node's processes write to a folder of their own; an exporter beside them lets each be scraped by
itself, whichever of them the requests reach. Knows nothing of Ray.
"""

from __future__ import annotations

import os
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import click

from serve.errors import ConfigurationError
from serve.metrics import CONTENT_TYPE, FOLDER_VARIABLE, reference, render_folder


@click.group("metrics", help="A node's metrics for Prometheus, and what they mean.")
def metrics() -> None:
    """Group the commands."""


@metrics.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9400, show_default=True, type=click.IntRange(0, 65_535), help="Port to listen on.")
def serve(host: str, port: int) -> None:
    """Serve the metrics that processes of this node write to PROMETHEUS_MULTIPROC_DIR."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder or not os.path.isdir(folder):
        raise ConfigurationError(f"{FOLDER_VARIABLE} must name the folder that the server's processes write to.")
    with exporter(folder, host, port) as server:
        click.echo(f"metrics of {folder} on http://{host}:{server.server_address[1]}/metrics")
        server.serve_forever()


@metrics.command("docs")
def docs() -> None:
    """Print the reference page."""
    click.echo(reference(), nl=False)


def exporter(folder: str, host: str, port: int) -> ThreadingHTTPServer:
    """Bind a server that renders a folder's metrics at `/metrics`, and answers `/health`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._reply(HTTPStatus.OK, CONTENT_TYPE, render_folder(folder))
            elif self.path == "/health":
                self._reply(HTTPStatus.OK, "text/plain", b"ok\n")
            else:
                self._reply(HTTPStatus.NOT_FOUND, "text/plain", b"There is only /metrics and /health.\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named above
            """Scrapes are not worth a line."""

        def _reply(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer((host, port), Handler)

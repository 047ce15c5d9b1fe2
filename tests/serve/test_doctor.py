"""What `palate doctor` says of the port."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from serve import config as configuration
from serve.doctor import port_finding

ANSWERS = {"palate": {"version": "1", "model": "m", "engine": "vllm"}, "another": {"hello": "world"}}


class _Handler(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def neighbour(request: pytest.FixtureRequest) -> Iterator[int]:
    handler = type("Handler", (_Handler,), {"body": json.dumps(ANSWERS[request.param]).encode()})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("neighbour", "is_fine"), [("palate", True), ("another", False)], indirect=["neighbour"])
def test_a_port_that_palate_serves_is_no_fault(neighbour: int, is_fine: bool) -> None:
    finding = port_finding(configuration.load(None, {"http": {"port": neighbour}}))
    assert finding.is_good == is_fine
    assert ("Palate answers" in finding.found) == is_fine

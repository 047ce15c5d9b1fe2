"""`palate probe` and `palate metrics`, against servers of the standard library."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from serve.errors import ConfigurationError
from serve.jobs.metrics import metrics
from serve.jobs.probe import probe
from serve.metrics import FOLDER_VARIABLE, reference


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []
    statuses: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        self.asked.append(f"{self.path} {self.headers.get('Authorization', '')}".strip())
        body = json.dumps({"data": [{"id": "m"}]}).encode()
        self.send_response(self.statuses.get(self.path, 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - named by the standard library

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("PALATE_API_KEY", raising=False)
    monkeypatch.setattr(Handler, "asked", [])
    monkeypatch.setattr(Handler, "statuses", {})
    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_ready_server_answers(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(probe, [server]).exit_code == 0
    assert Handler.asked == ["/ready"]
    monkeypatch.setenv("PALATE_API_KEY", "pk-1")
    assert CliRunner().invoke(probe, ["--answer", f"{server}/"]).exit_code == 0
    assert Handler.asked[1:] == [
        "/ready Bearer pk-1",
        "/v1/models Bearer pk-1",
        "/v1/chat/completions Bearer pk-1",
    ]


@pytest.mark.parametrize("path", ["/ready", "/v1/chat/completions"])
def test_a_server_that_fails_is_found_out(server: str, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(Handler, "statuses", {path: 503})
    result = CliRunner().invoke(probe, ["--answer", server])
    assert result.exit_code == 1
    assert "503" in result.stderr


def test_nobody_there_is_found_out(server: str) -> None:
    assert CliRunner().invoke(probe, ["http://127.0.0.1:1"]).exit_code == 1


def test_metrics_need_their_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    result = CliRunner().invoke(metrics, ["serve"])
    assert isinstance(result.exception, ConfigurationError)
    assert CliRunner().invoke(metrics, ["docs"]).output == reference()

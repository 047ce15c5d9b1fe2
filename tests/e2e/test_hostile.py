"""Clients that read slowly, send nonsense, or ask for more than there is: others are served all the same."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, running_server
from tests.patience import PATIENCE_S, wait_until

LIMITS: dict[str, dict[str, object]] = {"engine": {"max_ongoing_requests": 8, "max_queued_requests": 8}}


def chat(server: Server, text: str, **options: Any) -> httpx.Response:
    body = {"model": server.model, "messages": [{"role": "user", "content": text}], **options}
    return httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=PATIENCE_S, trust_env=False)


def connected(server: Server) -> socket.socket:
    host, port = server.base_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def gauge(server: Server, name: str) -> float:
    text = httpx.get(f"{server.base_url}/metrics", timeout=PATIENCE_S, trust_env=False).text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found
    return float(found[1])


def test_clients_that_do_not_read_hold_nobody_up(scripted_server: Server) -> None:
    body = {
        "model": scripted_server.model,
        "messages": [{"role": "user", "content": "[[tokens: 20000]]"}],
        "max_tokens": 20_000,
        "stream": True,
    }
    payload = json.dumps(body).encode()
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json")
    head = "\r\n".join([*lines, f"Content-Length: {len(payload)}", "", ""])
    lazy = [connected(scripted_server) for _ in range(8)]
    try:
        for client in lazy:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.sendall(head.encode() + payload)
        for client in lazy:
            assert select.select([client], [], [], PATIENCE_S)[0]  # its answer begins, and stays unread
        assert [chat(scripted_server, "hi").status_code for _ in range(5)] == [200] * 5
    finally:
        for client in lazy:
            client.close()
    wait_until(lambda: gauge(scripted_server, "palate_generations_running") == 0)


NONSENSE = {
    "no HTTP at all": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1" * 20,
    "a header without an end": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
    "a length that lies": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    "two lengths": b"POST /v1/feedback HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "a chunk of nonsense": b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a path upwards": b"GET /page/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}
BODIES = {
    "deep nesting": b'{"model":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "no UTF-8": b'{"model": "\xff\xfe", "messages": []}',
    "a surrogate alone": rb'{"model": "m", "messages": [{"role": "user", "content": "\ud800"}]}',
    "numbers beyond measure": b'{"model": "m", "messages": [], "max_tokens": 1e999, "temperature": NaN}',
    "a key twice": b'{"model": "a", "model": "b", "messages": [{"role": "user", "content": "x"}]}',
    "null bytes": b'{"model": "m\\u0000", "messages": [{"role": "user", "content": "\\u0000"}]}',
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_on_the_wire_is_refused(scripted_server: Server, name: str) -> None:
    answer = b""
    with (
        connected(scripted_server) as client,
        contextlib.suppress(ConnectionError),
    ):  # it may hang up before all is said
        client.sendall(NONSENSE[name])
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(65_536)
    assert not answer or re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:100]
    assert b"root:" not in answer
    assert scripted_server.is_ready()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback"])
@pytest.mark.parametrize("name", BODIES)
def test_nonsense_in_bodies_is_refused_in_openai_s_shape(scripted_server: Server, name: str, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    url = f"{scripted_server.base_url}{path}"
    answer = httpx.post(url, content=BODIES[name], headers=headers, timeout=PATIENCE_S, trust_env=False)
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.slow
def test_three_times_the_capacity_is_refused_quickly_and_the_rest_served(tmp_path: Path) -> None:
    """8 at a time take 0.4 s each: 20 a second; 60 a second are asked for over 20 s."""
    with running_server(tmp_path, "scripted", LIMITS) as server:
        chat(server, "warm up")
        begin = time.monotonic()

        def ask(number: int) -> tuple[int, float]:
            time.sleep(max(0.0, begin + number / 60.0 - time.monotonic()))
            sent = time.monotonic()
            status = chat(server, "Slowly. [[tokens: 20]] [[delay: 0.02]]").status_code
            return status, time.monotonic() - sent

        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, range(1_200)))
        accepted = sorted(seconds for status, seconds in answers if status == 200)
        refused = sorted(seconds for status, seconds in answers if status == 429)
        assert {status for status, _ in answers} == {200, 429}
        assert len(accepted) >= 100
        # At most a full queue is ahead of anybody, whatever the machine's own speed.
        assert accepted[int(0.99 * len(accepted))] < 5.0 * accepted[len(accepted) // 2]
        assert refused[len(refused) // 2] < accepted[len(accepted) // 2]
        assert chat(server, "and now").status_code == 200

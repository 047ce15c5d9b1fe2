"""What happens when a process dies, the queue is full, or a stranger calls: scripted engine, real processes."""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, running_server
from tests.patience import PATIENCE_S


def _body(server: Server, text: str, **options: Any) -> dict[str, Any]:
    return {"model": server.model, "messages": [{"role": "user", "content": text}], **options}


def _events(server: Server, body: dict[str, Any], started: threading.Barrier) -> list[Any]:
    events: list[Any] = []
    with httpx.stream(
        "POST",
        f"{server.base_url}/v1/chat/completions",
        json={**body, "stream": True},
        timeout=PATIENCE_S,
        trust_env=False,
    ) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line[6:]))
                if len(events) == 3:
                    started.wait(PATIENCE_S)
    return events


@pytest.mark.parametrize("deployment", ["Engine"])
def test_streams_end_with_an_error_event_and_service_resumes(tmp_path: Path, deployment: str) -> None:
    with running_server(tmp_path, "scripted") as server:
        started = threading.Barrier(9)
        body = _body(server, "Go on. [[tokens: 1000]] [[delay: 0.2]]", max_tokens=1_000)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(_events, server, body, started) for _ in range(8)]
            started.wait(PATIENCE_S)
            server.kill(deployment)
            endings = [stream.result(timeout=PATIENCE_S)[-1] for stream in streams]
        assert all(ending["error"]["type"] == "server_error" for ending in endings)
        server.wait_until(ready=False)
        refused = httpx.post(
            f"{server.base_url}/v1/chat/completions", json=_body(server, "hi"), timeout=PATIENCE_S, trust_env=False
        )
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "engine_unavailable"
        assert int(refused.headers["Retry-After"]) > 0
        server.wait_until(ready=True)
        answer = httpx.post(
            f"{server.base_url}/v1/chat/completions", json=_body(server, "hi"), timeout=PATIENCE_S, trust_env=False
        )
        assert answer.status_code == 200


@pytest.mark.slow
def test_a_dead_ingress_is_replaced_and_what_was_acknowledged_is_there(scripted_server: Server) -> None:
    server, started = scripted_server, threading.Barrier(2)
    liked = {"kind": "comparison", "user": "orphan", "prompt": "hi", "candidates": ["a b", "there what"], "value": 1}
    said = httpx.post(f"{server.base_url}/v1/feedback", json=liked, timeout=PATIENCE_S, trust_env=False)
    assert said.status_code == 200
    body = _body(server, "Go on. [[tokens: 1000]] [[delay: 0.2]]", max_tokens=1_000)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stream = pool.submit(_events, server, body, started)
        started.wait(PATIENCE_S)
        server.kill("Ingress")
        with pytest.raises(httpx.TransportError):
            stream.result(timeout=PATIENCE_S)
    server.wait_until(ready=True)
    body = {**_body(server, "hi"), "user": "orphan"}
    answer = httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=PATIENCE_S, trust_env=False)
    assert (answer.status_code, answer.json()["palate"]["personalized"]) == (200, True)
    listed = httpx.get(f"{server.base_url}/v1/feedback?user=orphan", timeout=PATIENCE_S, trust_env=False).json()
    assert [event["id"] for event in listed["data"]] == [said.json()["id"]]


def test_a_sick_engine_is_replaced(tmp_path: Path) -> None:
    with running_server(tmp_path, "scripted", {"engine": {"health_check_period_s": 0.5}}) as server:
        before = server.replica("Engine").pid
        httpx.post(
            f"{server.base_url}/v1/chat/completions",
            json=_body(server, "[[sick]]"),
            timeout=PATIENCE_S,
            trust_env=False,
        )
        server.wait_until(ready=False)
        server.wait_until(ready=True)
        assert server.replica("Engine").pid != before


def test_a_full_queue_answers_429(tmp_path: Path) -> None:
    limits: dict[str, dict[str, object]] = {"engine": {"max_ongoing_requests": 2, "max_queued_requests": 2}}
    with running_server(tmp_path, "scripted", limits, api_key="secret") as server:
        headers = {"Authorization": "Bearer secret"}

        def ask(_: int) -> httpx.Response:
            body = _body(server, "Slowly. [[tokens: 20]] [[delay: 0.1]]")
            url = f"{server.base_url}/v1/chat/completions"
            return httpx.post(url, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(12)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert {answer.status_code for answer in answers} == {200, 429}
        assert refused[0].json()["error"]["code"] == "queue_full"
        assert int(refused[0].headers["Retry-After"]) > 0
        assert ask(0).status_code == 200

        stranger = httpx.get(
            f"{server.base_url}/v1/models",
            headers={"Authorization": "Bearer wrong"},
            timeout=PATIENCE_S,
            trust_env=False,
        )
        assert stranger.status_code == 401
        assert stranger.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{server.base_url}/health", timeout=PATIENCE_S, trust_env=False).status_code == 200


@pytest.mark.slow
def test_long_answers_in_a_full_house_are_not_taken_for_a_dead_engine(tmp_path: Path) -> None:
    """Two at a time take 12 s, so that probes, too, wait for longer than they are given."""
    limits: dict[str, dict[str, object]] = {"engine": {"max_ongoing_requests": 2, "max_queued_requests": 20}}
    with running_server(tmp_path, "scripted", limits) as server:
        begin = time.monotonic()

        def ask(number: int) -> int:
            time.sleep(max(0.0, begin + number - time.monotonic()))
            body = _body(server, "Slowly. [[tokens: 24]] [[delay: 0.5]]" if number < 2 else "hi")
            url = f"{server.base_url}/v1/chat/completions"
            return httpx.post(url, json=body, timeout=PATIENCE_S, trust_env=False).status_code

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            assert list(pool.map(ask, range(12))) == [200] * 12


def test_a_generation_that_breaks_off_is_an_error(scripted_server: Server) -> None:
    url = f"{scripted_server.base_url}/v1/chat/completions"
    whole = httpx.post(url, json=_body(scripted_server, "[[fail: 3]]"), timeout=PATIENCE_S, trust_env=False)
    assert whole.status_code == 500
    assert whole.json()["error"]["code"] == "generation_failed"
    events = _events(scripted_server, _body(scripted_server, "[[fail: 3]]"), threading.Barrier(1))
    assert events[-1]["error"]["code"] == "generation_failed"


def test_a_second_start_on_the_port_says_so(scripted_server: Server) -> None:
    port = scripted_server.base_url.rsplit(":", 1)[1]
    second = subprocess.run(
        [sys.executable, "-m", "serve", "serve", "--port", port, "--engine", "scripted"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert second.returncode == 1
    assert f"Port {port}" in second.stderr
    assert "--port" in second.stderr


def test_a_request_that_takes_too_long_ends(tmp_path: Path) -> None:
    with running_server(tmp_path, "scripted", {"http": {"request_timeout_s": 3.0}}) as server:
        url = f"{server.base_url}/v1/chat/completions"
        body = _body(server, "[[tokens: 100]] [[delay: 0.1]]", max_tokens=100)
        whole = httpx.post(url, json=body, timeout=PATIENCE_S, trust_env=False)
        assert whole.status_code == 504
        assert whole.json()["error"]["code"] == "deadline_exceeded"
        assert _events(server, body, threading.Barrier(1))[-1]["error"]["code"] == "deadline_exceeded"

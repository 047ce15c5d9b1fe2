"""Feedback and people through a whole server: learned, shown, taken along, erased; kept when a replica is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server
from tests.patience import PATIENCE_S

COMPARISON = {"kind": "comparison", "prompt": "hi", "candidates": ["a b c", "there what clear another"], "value": 1}


class Caller:
    """Calls one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.base_url, timeout=PATIENCE_S, trust_env=False)

    def ask(self, user: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Tell me about bread."}]
        body = {"model": self.server.model, "messages": messages, "user": user, "max_tokens": 16}
        response = self.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def see(self, user: str) -> httpx.Response:
        return self.http.get(f"/v1/users/{user}")


@pytest.fixture
def caller(server: Server) -> Iterator[Caller]:
    """On either engine; the default model has an artifact that comes with Palate."""
    caller = Caller(server)
    yield caller
    caller.http.close()


def test_a_person_is_learned_shown_taken_along_and_erased(caller: Caller) -> None:
    http = caller.http
    first = caller.ask("eve")
    assert first["palate"]["reason"] == "no_feedback"
    for _ in range(4):
        said = http.post("/v1/feedback", json={**COMPARISON, "user": "eve"})
        assert said.status_code == 200, said.text
    said = http.post("/v1/feedback", json={"kind": "thumb", "completion_id": first["id"], "value": -1})
    assert said.json()["posterior_version"] == 5
    assert caller.ask("eve")["palate"]["personalized"]
    seen = caller.see("eve").json()
    assert (seen["num_events"], seen["num_counting"]) == (5, 5)
    assert any(row["taught_by"] for row in seen["attributes"])
    exported = http.get("/v1/users/eve/export").text
    assert len(exported.splitlines()) >= 7
    assert http.delete("/v1/users/eve").json()["num_events"] == 5
    assert caller.see("eve").status_code == 404
    assert caller.ask("eve")["palate"]["reason"] == "no_feedback"
    assert http.post("/v1/users/eve/import", content=exported).json()["num_events"] == 5
    http.delete("/v1/users/eve")


@pytest.mark.slow
def test_a_killed_ingress_replica_loses_no_acknowledged_feedback(scripted_server: Server) -> None:
    """16 writers insist while the replica that answers them is killed again and again."""
    num_kills, acknowledged = 5, set[str]()

    def write(writer: int) -> None:
        with httpx.Client(base_url=scripted_server.base_url, timeout=10.0, trust_env=False) as http:
            for number in range(40):
                key = f"w{writer}-{number}"
                body = {**COMPARISON, "user": f"crash-{number % 4}", "idempotency_key": key}
                while True:
                    try:
                        if http.post("/v1/feedback", json=body).status_code == 200:
                            break
                    except httpx.TransportError:
                        time.sleep(0.05)
                acknowledged.add(key)

    with ThreadPoolExecutor(16) as pool:
        writers = [pool.submit(write, writer) for writer in range(16)]
        for kill in range(num_kills):
            while len(acknowledged) < (kill + 1) * 640 // (num_kills + 1):
                time.sleep(0.01)
            scripted_server.kill("Ingress")
            scripted_server.wait_until(ready=True)
        for writer in writers:
            writer.result()
    urls = [f"{scripted_server.base_url}/v1/users/crash-{person}" for person in range(4)]
    counts = [httpx.get(url, timeout=PATIENCE_S, trust_env=False).json()["num_events"] for url in urls]
    assert counts == [160] * 4

"""Publishing and rolling back under load: nothing dropped, nothing mixed, in service within seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serve.artifacts.registry import Registry
from serve.home import Home
from tests.e2e.server import Server, running_server
from tests.patience import PATIENCE_S, wait_until
from tests.serve.publishing import FIRST, SECOND, registry_of, second_artifact

MODEL = "scripted-publishing"
NUM_STREAMS = 32
NUM_PROTOTYPES = {FIRST: 2, SECOND: 3}
COMPARISON = {"kind": "comparison", "prompt": "hi", "candidates": ["a b c", "there what clear another"], "value": 1}


@dataclass(frozen=True)
class Streamed:
    """One streamed answer, as a client saw it."""

    begun_at: float
    user: str
    artifact: str
    num_prototypes: int
    is_personalized: bool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = Path(tmp_path_factory.mktemp("publishing"))
    registry_of(folder / "home", second_artifact(MODEL))
    before = os.environ.get("PALATE_HOME")
    os.environ["PALATE_HOME"] = str(folder / "home")
    try:
        with running_server(folder, "scripted", {"model": {"served_name": MODEL}}) as server:
            yield server
    finally:
        os.environ.pop("PALATE_HOME")
        if before is not None:
            os.environ["PALATE_HOME"] = before


def command(*arguments: str) -> None:
    """Run `palate artifacts …` as an operator does."""
    subprocess.run([sys.executable, "-m", "serve", "artifacts", *arguments], check=True, capture_output=True)


def stream(http: httpx.Client, user: str) -> Streamed:
    """Take one answer; fails unless it is whole."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello [[tokens: 12]] [[delay: 0.01]]"}],
        "user": user,
        "stream": True,
    }
    begun_at, events = time.monotonic(), list[str]()
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        events += [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert not [chunk for chunk in chunks if "error" in chunk]
    finished = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert finished.count("stop") == 1, finished
    (told,) = [chunk["palate"] for chunk in chunks if chunk.get("palate")]
    assert "degraded" not in told
    return Streamed(begun_at, user, told["artifact"], len(told["mixture_weights"]), told["personalized"])


class Load:
    """32 people who ask again and again."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answers: list[Streamed] = []
        self.is_over = threading.Event()
        self.askers: list[Future[None]] = []

    def ask(self, number: int) -> None:
        with httpx.Client(base_url=self.server.base_url, timeout=PATIENCE_S, trust_env=False) as http:
            said = http.post("/v1/feedback", json={**COMPARISON, "user": f"u{number}"})
            assert said.status_code == 200, said.text
            while not self.is_over.is_set():
                self.answers.append(stream(http, f"u{number}"))

    def wait_for(self, version: str) -> float:
        """Wait until everybody's answers come from a version; return the seconds that took."""
        begin = time.monotonic()
        wait_until(lambda: self._is_everybodys(version))
        return time.monotonic() - begin

    def _is_everybodys(self, version: str) -> bool:
        for asker in self.askers:
            if asker.done():
                asker.result()  # raises what went wrong
        newest = {answer.user: answer.artifact for answer in list(self.answers)}
        return len(newest) == NUM_STREAMS and set(newest.values()) == {version}


def test_publishing_and_rolling_back_under_load(server: Server) -> None:
    load, registry = Load(server), Registry(Home.from_env())
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        load.askers = [pool.submit(load.ask, number) for number in range(NUM_STREAMS)]
        try:
            load.wait_for(FIRST)
            command("publish", SECOND)
            published_s = load.wait_for(SECOND)
            registry.rollback(MODEL)
            rolled_back_s = load.wait_for(FIRST)
            command("publish", SECOND)
            load.wait_for(SECOND)
        finally:
            load.is_over.set()
        for asker in load.askers:
            asker.result()  # raises what went wrong with any answer
    assert {answer.artifact for answer in load.answers} == {FIRST, SECOND}
    for answer in load.answers:  # each from one artifact with its own posterior, never without one
        assert answer.is_personalized
        assert answer.num_prototypes == NUM_PROTOTYPES[answer.artifact]
    print(f"{len(load.answers)} answers; published {published_s:.2f} s, rolled back {rolled_back_s:.2f} s")
    metrics = httpx.get(f"{server.base_url}/metrics", timeout=PATIENCE_S, trust_env=False).text
    assert f'palate_artifact_info{{version="{SECOND}"}} 1.0' in metrics
    assert f'palate_artifact_info{{version="{FIRST}"}} 0.0' in metrics

"""What the chain's outcome means, and how it waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from serve.errors import EngineUnavailable
from serve.home import Home
from serve.jobs.chain import command
from serve.jobs.chain.command import LIMIT_S, Outcome, Size, follow, render, until_serving
from serve.jobs.chain.stages import Stages
from serve.jobs.release.served import paired
from tests.serve.jobs.simulated.test_protocol import MadeUpServer

BEFORE = np.array([0.1, 0.3, 0.2, 0.4])
GOOD = Outcome(
    {"start": 60.0, "traffic": 900.0, "served before": 900.0, "fit": 30.0, "steer": 20.0, "release": 10.0},
    "fit-1",
    True,
    (),
    paired(BEFORE + np.array([0.3, 0.2, 0.3, 0.4]), BEFORE),
)


def test_people_must_surely_gain_within_the_time() -> None:
    assert GOOD.learning_s == 960.0  # neither the start nor what only measures
    assert GOOD.is_good
    assert not replace(GOOD, stages={"traffic": LIMIT_S + 1.0}).is_good
    assert not replace(GOOD, served=paired(BEFORE + np.array([0.9, -0.6, 0.3, 0.4]), BEFORE)).is_good
    assert not replace(GOOD, served=None).is_good


def test_the_outcome_says_what_was_gained_or_why_not() -> None:
    assert "difference 0.3000 [0.1701, 0.4299]" in render(GOOD)
    refused = render(replace(GOOD, is_published=False, served=None, reasons=("it may guess fewer right",)))
    assert "fit-1 was not published:\n- it may guess fewer right" in refused


class Server(MadeUpServer):
    """Serves a version at once when it is published."""

    version = "shipped"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "model"}]})
        if request.url.path == "/v1/operator":
            return httpx.Response(200, json={"artifact": {"version": self.version}})
        return super().__call__(request)


@pytest.mark.parametrize("is_better", [True, False])
async def test_all_stages_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_better: bool) -> None:
    server, ran = Server(), list[str]()

    def run(*arguments: str, accepted: tuple[int, ...] = (0,)) -> tuple[int, str]:
        ran.append(" ".join(arguments[:2]))
        if arguments[0] == "fit":
            return 0, "fit-1: better\n/somewhere/artifacts/fit-1"
        if arguments[:2] == ("evaluate", "release"):
            assert arguments[2] == "fit-1"
            return (0, '{"reasons": []}') if is_better else (3, '{"reasons": ["it guesses fewer right"]}')
        if arguments[:2] == ("artifacts", "publish"):
            server.version = arguments[2]
        return 0, ""

    monkeypatch.setattr(command, "command", run)
    size = Size(6, 4, 3, 2, 4, "foreign", 40, 4)
    stages = Stages()
    async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://palate") as http:
        outcome = await follow(http, Home(tmp_path), size, stages)
    expected = ["traffic", "served before", "fit", "steer", "release"]
    assert ran[:3] == ["fit --url", "steer discover", "evaluate release"]
    taught = [name for name in server.choices if "person-1000-" in name]
    assert [len(server.choices[name]) for name in taught] == [4] * 6  # and they stay: nobody deleted them
    assert not any(name in server.deleted for name in taught)
    if not is_better:
        assert (outcome.served, outcome.reasons) == (None, ("it guesses fewer right",))
        assert list(outcome.stages) == expected
        return
    assert list(outcome.stages) == [*expected, "publish", "served after"]
    assert outcome.version == server.version == "fit-1"
    assert outcome.served is not None
    assert np.isfinite(outcome.served.difference.mean)
    assert not outcome.is_good  # the made-up server has learned nothing


async def test_a_version_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, {"version": "old"}, {"version": "new"}])

    def served(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"artifact": next(answers, {"version": "old"})})

    monkeypatch.setattr(command, "LOOK_S", 0.01)
    async with httpx.AsyncClient(transport=httpx.MockTransport(served), base_url="http://palate") as http:
        await until_serving(http, "new")
        monkeypatch.setattr(command, "PATIENCE_S", 0.05)
        with pytest.raises(EngineUnavailable, match="does not serve after 0 s"):
            await until_serving(http, "newer")

"""What the chain's outcome means, and how it waits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from serve.errors import ConfigurationError, EngineUnavailable
from serve.home import Home
from serve.jobs.chain import command, learning
from serve.jobs.chain.command import LIMIT_S, Outcome, Size, follow, render, until_serving
from serve.jobs.chain.learning import Learned
from serve.jobs.chain.stages import Stages
from serve.jobs.release.served import paired
from serve.jobs.simulated.people import Common
from tests.serve.jobs.simulated.test_protocol import MadeUpServer

BEFORE = np.array([0.1, 0.3, 0.2, 0.4])
GOOD = Outcome(
    {"start": 60.0, "traffic": 600.0, "served before": 900.0, "fit": 30.0, "adapt": 320.0, "release": 10.0},
    Learned("adapt-1", ("prototype 0 wins",)),
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
    assert "\nadapt: prototype 0 wins\nadapt-1 serves." in render(GOOD)
    refused = render(replace(GOOD, is_published=False, served=None, reasons=("it may guess fewer right",)))
    assert "adapt-1 was not published:\n- it may guess fewer right" in refused


class Server(MadeUpServer):
    """Serves a version at once when it is published."""

    version = "shipped"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "model"}]})
        if request.url.path == "/v1/operator":
            return httpx.Response(200, json={"artifact": {"version": self.version}})
        return super().__call__(request)


ROW = {
    "prototype": 0,
    "pairs": 280,
    "win_rate": {"mean": 0.6, "low": 0.5, "high": 0.7},
    "gain": {"mean": 0.3, "low": 0.1, "high": 0.5},
    "reasons": [],
}


@pytest.mark.parametrize("is_better", [True, False])
async def test_all_stages_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_better: bool) -> None:
    server, ran = Server(), list[str]()

    def run(*arguments: str, accepted: tuple[int, ...] = (0,)) -> tuple[int, str]:
        ran.append(" ".join(arguments[:2]))
        if arguments[0] == "fit":
            return 0, "fit-1: better\n/somewhere/artifacts/fit-1"
        if arguments[0] == "adapt":
            assert arguments[arguments.index("--artifact") + 1] == "fit-1"
            return 0, json.dumps({"version": "adapt-1", "adapters": [ROW]})
        if arguments[:2] == ("evaluate", "release"):
            assert arguments[2] == "adapt-1"
            return (0, '{"reasons": []}') if is_better else (3, '{"reasons": ["it guesses fewer right"]}')
        if arguments[:2] == ("artifacts", "publish"):
            server.version = arguments[2]
        return 0, ""

    for module in (command, learning):
        monkeypatch.setattr(module, "command", run)
    size = Size(6, 4, 3, 2, 4, "foreign", Common(0.5), True, 40, 4)
    stages = Stages()
    async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://palate") as http:
        outcome = await follow(http, Home(tmp_path), size, stages)
    expected = ["traffic", "served before", "fit", "steer", "answers", "adapt", "release"]
    assert ran[:5] == ["fit --url", "steer discover", "features generate", "adapt --url", "evaluate release"]
    assert outcome.learned.adapters == ("prototype 0, 280 pairs: win rate 0.60 [0.50, 0.70], gain 0.30 [0.10, 0.50]",)
    taught = [name for name in server.choices if "person-1000-" in name]
    assert [len(server.choices[name]) for name in taught] == [4] * 6  # and they stay: nobody deleted them
    assert not any(name in server.deleted for name in taught)
    if not is_better:
        assert (outcome.served, outcome.reasons) == (None, ("it guesses fewer right",))
        assert list(outcome.stages) == expected
        return
    assert list(outcome.stages) == [*expected, "publish", "served after"]
    assert outcome.learned.version == server.version == "adapt-1"
    assert outcome.served is not None
    assert np.isfinite(outcome.served.difference.mean)
    assert not outcome.is_good  # the made-up server has learned nothing


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (
            (3, json.dumps({"version": None, "adapters": [ROW | {"reasons": ["it does not surely win"]}]})),
            "prototype 0, 280 pairs: win rate 0.60 [0.50, 0.70], gain 0.30 [0.10, 0.50]; it does not surely win",
        ),
        (ConfigurationError("nobody can judge its adapter"), "nobody can judge its adapter"),
    ],
)
def test_without_an_adapter_the_fitted_version_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: tuple[int, str] | ConfigurationError, told: str
) -> None:
    def run(*arguments: str, accepted: tuple[int, ...] = (0,)) -> tuple[int, str]:
        if arguments[0] != "adapt":
            return 0, "fit-1: better\n/somewhere/artifacts/fit-1"
        assert 3 in accepted
        if isinstance(outcome, ConfigurationError):
            raise outcome
        return outcome

    monkeypatch.setattr(learning, "command", run)
    assert learning.adapt("fit-1", Home(tmp_path), Stages(), 64) == Learned("fit-1", (told,))


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

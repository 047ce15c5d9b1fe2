"""What the chain's outcome means, and how it waits."""

from __future__ import annotations

from dataclasses import replace

import httpx
import numpy as np
import pytest

from serve.errors import EngineUnavailable
from serve.jobs.chain import command
from serve.jobs.chain.command import LIMIT_S, Outcome, render, until_serving
from serve.jobs.release.served import paired

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

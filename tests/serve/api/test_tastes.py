"""A taste over time and on a map, through HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.serve.api.people import Palate, running

LONG, SHORT = "there what clear another", "a b c"


@pytest.fixture
async def palate(tmp_path: Path) -> AsyncIterator[Palate]:
    async with running(tmp_path) as palate:
        yield palate


async def prefer(palate: Palate, user: str, value: int = 1, times: int = 1) -> list[str]:
    texts = [SHORT, LONG]
    said = [
        await palate.say(kind="comparison", user=user, prompt="hi", candidates=texts, value=value) for _ in range(times)
    ]
    return [receipt["id"] for receipt in said]


async def test_the_history_ends_where_the_profile_is(palate: Palate) -> None:
    ids = await prefer(palate, "ann", times=4)
    moments = (await palate.see("/v1/users/ann/history"))["data"]
    assert [moment["feedback_id"] for moment in moments] == [None, *ids]
    widths = [
        moment["attributes"]["long_words"]["high"] - moment["attributes"]["long_words"]["low"] for moment in moments
    ]
    assert widths[-1] < widths[0]
    means = [moment["attributes"]["long_words"]["mean"] for moment in moments]
    assert means == sorted(means)
    seen = await palate.see("/v1/users/ann")
    (long_words,) = [row for row in seen["attributes"] if row["name"] == "long_words"]
    for name in ("mean", "low", "high"):
        assert moments[-1]["attributes"]["long_words"][name] == pytest.approx(long_words[name], abs=1e-3)
    assert moments[-1]["mixture_weights"] == pytest.approx(seen["mixture_weights"], abs=1e-3)


async def test_a_short_history_starts_from_what_was_believed_then(palate: Palate) -> None:
    ids = await prefer(palate, "ann", times=5)
    whole = (await palate.see("/v1/users/ann/history"))["data"]
    short = (await palate.see("/v1/users/ann/history?limit=2"))["data"]
    assert [moment["feedback_id"] for moment in short] == [None, *ids[-2:]]
    for a, b in zip(whole[-3:], short, strict=True):
        assert a["attributes"]["long_words"]["mean"] == pytest.approx(b["attributes"]["long_words"]["mean"], abs=1e-3)


async def test_withdrawn_feedback_leaves_the_history(palate: Palate) -> None:
    first, second = await prefer(palate, "ann", times=2)
    assert (await palate.client.delete(f"/v1/feedback/{first}")).status_code == 200
    moments = (await palate.see("/v1/users/ann/history"))["data"]
    assert [moment["feedback_id"] for moment in moments] == [None, second]
    assert (await palate.see("/v1/users/nobody/history"))["data"] == []


async def test_the_map_shows_a_person_among_others_without_names(palate: Palate) -> None:
    for number in range(6):
        await prefer(palate, f"long-{number}", 1, times=3)
        await prefer(palate, f"short-{number}", 0, times=3)
    await prefer(palate, "ann", 1, times=3)
    response = await palate.client.get("/v1/users/ann/map")
    drawn = response.json()
    assert "long-" not in response.text
    assert drawn["num_people"] == 13
    assert len(drawn["others"]) == 12
    assert max(drawn["axes"][0], key=lambda name: abs(drawn["axes"][0][name])) == "long_words"
    x = drawn["person"][0]
    assert sum(abs(other[0] - x) < 0.5 for other in drawn["others"]) == 6
    likely = max(drawn["prototypes"], key=lambda one: one["weight"])
    assert likely["attributes"]["long_words"] > 0
    assert likely["x"] * x > 0


async def test_a_map_for_somebody_new_and_with_few_others(palate: Palate) -> None:
    for number in range(4):
        await prefer(palate, f"p-{number}")
    drawn = await palate.see("/v1/users/new/map")
    assert (drawn["person"], drawn["others"], drawn["num_people"]) == (None, [], 4)
    assert len(drawn["prototypes"]) == 2

"""Feedback through HTTP: what is taken, refused, repeated, replaced, listed and withdrawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.serve.api.people import Palate, running
from user_store.types import AppendReceipt, CompletionRecord, FeedbackEvent, UserKey

ANN = UserKey("default", "ann")
LONG, SHORT = "there what clear another", "a b c"


@pytest.fixture
async def palate(tmp_path: Path) -> AsyncIterator[Palate]:
    async with running(tmp_path) as palate:
        yield palate


async def version(palate: Palate) -> int:
    state = await palate.memory.people.store.get_state(ANN)
    return state.posterior.version if state.posterior else 0


async def mean(palate: Palate, name: str = "long_words") -> float:
    attributes = (await palate.see("/v1/users/ann"))["attributes"]
    return float(next(row["mean"] for row in attributes if row["name"] == name))


async def test_a_thumb_is_known_before_its_answer(palate: Palate) -> None:
    first = await palate.ask()
    assert first["palate"]["personalized"] is False
    said = await palate.say(kind="thumb", completion_id=first["id"], value=-1)
    assert said.keys() == {"id", "duplicate", "posterior_version"}
    assert (said["duplicate"], said["posterior_version"]) == (False, 1)
    assert (await palate.ask())["palate"]["personalized"] is True
    seen = await palate.see("/v1/users/ann")
    assert (seen["num_events"], seen["num_counting"], seen["posterior_version"]) == (1, 1, 1)
    assert {lesson["feedback_id"] for row in seen["attributes"] for lesson in row["taught_by"]} == {said["id"]}


async def test_a_comparison_of_inline_texts_moves_the_taste_towards_the_chosen_one(palate: Palate) -> None:
    before: dict[str, Any] = {"kind": "comparison", "user": "ann", "prompt": "hi"}
    await palate.say(**before, candidates=[SHORT, LONG], value=1)
    liked = await mean(palate)
    assert liked > 0.0
    await palate.say(**before, candidates=[LONG, SHORT, "of"], value=0)
    assert await mean(palate) > liked


async def test_every_kind_is_taken_and_counts(palate: Palate) -> None:
    answer = await palate.ask(n=3, seed=5)
    other = await palate.ask(text="and you?")
    inline = {"user": "ann", "prompt": [{"role": "user", "content": "hi"}]}
    about = {"completion_id": answer["id"]}
    said: list[dict[str, Any]] = [
        {"kind": "thumb", **about, "value": 1, "choice": 2},
        {"kind": "rating", "completion_id": other["id"], "value": 4},
        {"kind": "comparison", **about, "value": 1},
        {"kind": "comparison", "completion_ids": [answer["id"], other["id"]], "value": 0},
        {"kind": "ranking", "completion_ids": [other["id"], answer["id"]], "value": [1, 0]},
        {"kind": "ranking", **inline, "candidates": [SHORT, LONG, "of it"], "value": [2, 0]},
        {"kind": "comment", "user": "ann", "value": "shorter words, please: fewer long ones"},
        {"kind": "edit", **about, "prompt": "hi", "value": LONG},
        {"kind": "edit", **inline, "candidates": [SHORT], "value": LONG},
        {"kind": "demonstration", **inline, "value": LONG},
        {"kind": "implicit", "completion_id": other["id"], "value": -1},
        {"kind": "thumb", **inline, "candidates": [SHORT, LONG], "value": -1, "choice": 1},
    ]
    versions = [(await palate.say(**body))["posterior_version"] for body in said]
    assert versions == list(range(1, len(said) + 1))
    seen = await palate.see("/v1/users/ann")
    # A ranking of the same two completions replaces their comparison.
    assert (seen["num_events"], seen["num_counting"]) == (12, 11)
    listed = (await palate.see("/v1/feedback?user=ann&limit=50"))["data"]
    assert [row["kind"] for row in listed] == [body["kind"] for body in said]
    assert [row["inferred"] for row in listed] == [body["kind"] == "implicit" for body in said]
    assert listed[7]["value"] is None  # what people wrote is not kept, only its features
    assert listed[0]["choice"] == 2


@pytest.mark.parametrize("place", ["body", "header"])
async def test_the_same_key_again_changes_nothing(palate: Palate, place: str) -> None:
    answer = await palate.ask()
    body: dict[str, Any] = {"kind": "thumb", "completion_id": answer["id"], "value": 1}
    headers = {"Idempotency-Key": "k1"} if place == "header" else {}
    if place == "body":
        body["idempotency_key"] = "k1"
    first, again = [(await palate.client.post("/v1/feedback", json=body, headers=headers)).json() for _ in range(2)]
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert first["id"] == again["id"]
    assert (await palate.see("/v1/users/ann"))["num_events"] == 1


async def test_later_feedback_on_an_answer_replaces_the_earlier_and_both_stay_in_the_log(palate: Palate) -> None:
    answer = await palate.ask()
    about = {"kind": "thumb", "completion_id": answer["id"]}
    await palate.say(**about, value=1)
    liked = await mean(palate)
    await palate.say(**about, value=-1)
    disliked = await mean(palate)
    await palate.say(kind="rating", completion_id=answer["id"], value=5)
    seen = await palate.see("/v1/users/ann")
    assert liked * disliked < 0
    assert (seen["num_events"], seen["num_counting"]) == (3, 1)


async def test_what_was_inferred_does_not_replace_what_was_said(palate: Palate) -> None:
    answer = await palate.ask()
    await palate.say(kind="thumb", completion_id=answer["id"], value=1)
    await palate.say(kind="implicit", completion_id=answer["id"], value=-1)
    assert (await palate.see("/v1/users/ann"))["num_counting"] == 2


async def test_feedback_that_comes_before_its_answer_counts_when_the_answer_is_stored(palate: Palate) -> None:
    answer = await palate.ask()
    people, clock = palate.memory.people, palate.memory.people.clock()
    record = await people.store.get_completion("default", answer["id"], now=clock)
    await people.announce(ANN, "chatcmpl-racing", clock)
    said = await palate.say(kind="thumb", completion_id="chatcmpl-racing", value=-1)
    comment = await palate.say(kind="comment", completion_id="chatcmpl-racing", value="more vowel endings, please")
    written = await palate.say(kind="edit", completion_id="chatcmpl-racing", prompt="hi", value=LONG)
    listed = {row["id"]: row["pending"] for row in (await palate.see("/v1/feedback?user=ann"))["data"]}
    assert listed == {said["id"]: True, comment["id"]: False, written["id"]: True}
    assert (await palate.see("/v1/users/ann"))["num_counting"] == 1
    racing = CompletionRecord(
        "chatcmpl-racing",
        ANN,
        created_at=record.created_at,
        expires_at=record.expires_at,
        features=record.features,
        arms=record.arms,
        chosen=record.chosen,
        payload=record.payload,
    )
    await people.remember(racing)
    assert not any(row["pending"] for row in (await palate.see("/v1/feedback?user=ann"))["data"])
    assert (await palate.see("/v1/users/ann"))["num_counting"] == 3


async def test_a_repeat_of_feedback_that_waits_is_a_duplicate_too(palate: Palate) -> None:
    """Also when the answer is stored between its reading and its learning."""
    answer = await palate.ask()
    people = palate.memory.people
    record = await people.store.get_completion("default", answer["id"], now=people.clock())
    await people.announce(ANN, "chatcmpl-racing", people.clock())
    body = {"kind": "thumb", "completion_id": "chatcmpl-racing", "value": 1, "idempotency_key": "k"}
    first = await palate.client.post("/v1/feedback", json=body)
    append = people.store.append_event

    async def append_late(event: FeedbackEvent) -> AppendReceipt:
        await people.store.put_completion(replace(record, id="chatcmpl-racing"))
        return await append(event)

    people.store.append_event = append_late  # type: ignore[method-assign]
    again = await palate.client.post("/v1/feedback", json=body)
    assert (again.status_code, again.json()["duplicate"], again.json()["id"]) == (200, True, first.json()["id"])


async def test_withdrawn_feedback_is_forgotten_but_stays_visible(palate: Palate) -> None:
    before = await palate.say(kind="comparison", user="ann", prompt="hi", candidates=[SHORT, LONG], value=1)
    taste = await mean(palate)
    said = await palate.say(kind="comparison", user="ann", prompt="hi", candidates=["of", "do"], value=0)
    gone = (await palate.client.delete(f"/v1/feedback/{said['id']}")).json()
    assert (gone["id"], gone["deleted"]) == (said["id"], True)
    assert gone["posterior_version"] > said["posterior_version"]
    assert await mean(palate) == pytest.approx(taste, abs=1e-9)
    rows = (await palate.see("/v1/feedback?user=ann"))["data"]
    assert [(row["id"], row["withdrawn"]) for row in rows] == [(before["id"], False), (said["id"], True)]
    again = await palate.client.delete(f"/v1/feedback/{said['id']}")
    assert again.status_code == 200
    assert (await palate.client.delete("/v1/feedback/fb-unknown")).status_code == 404


async def test_lists_page_and_filter(palate: Palate) -> None:
    for user in ("ann", "bob"):
        for value in (1, -1, 1):
            await palate.say(kind="thumb", user=user, prompt="hi", candidates=[SHORT], value=value)
    await palate.say(kind="comment", user="bob", value="fine")
    first = await palate.see("/v1/feedback?limit=4")
    assert (first["object"], len(first["data"]), first["has_more"]) == ("list", 4, True)
    rest = await palate.see(f"/v1/feedback?limit=4&after={first['data'][-1]['id']}")
    assert (len(rest["data"]), rest["has_more"]) == (3, False)
    assert {row["user"] for row in rest["data"]} == {"bob"}
    assert [row["value"] for row in (await palate.see("/v1/feedback?user=bob&kind=comment"))["data"]] == ["fine"]
    assert (await palate.see("/v1/feedback?since=9e10"))["data"] == []
    await palate.see("/v1/feedback?after=fb-unknown", 404)
    await palate.see("/v1/feedback?limit=0", 400)


async def test_while_learning_is_paused_feedback_is_kept_and_never_counts(palate: Palate) -> None:
    answer = await palate.ask()
    await palate.client.patch("/v1/users/ann", json={"learning_paused": True})
    said = await palate.say(kind="thumb", completion_id=answer["id"], value=1)
    assert not said["duplicate"]
    await palate.client.patch("/v1/users/ann", json={"learning_paused": False})
    await palate.say(kind="comparison", user="ann", prompt="hi", candidates=[SHORT, LONG], value=1)
    seen = await palate.see("/v1/users/ann")
    assert (seen["num_events"], seen["num_counting"]) == (2, 1)


async def test_a_completion_whose_time_is_over_is_gone_and_its_texts_still_work_inline(tmp_path: Path) -> None:
    async with running(tmp_path, feedback={"completion_ttl_s": 1.0}) as palate:
        answer = await palate.ask()
        now = palate.memory.people.clock()
        palate.memory.people.clock = lambda: now + 2.0
        refused = await palate.say(410, kind="thumb", completion_id=answer["id"], value=1)
        assert refused["error"]["code"] == "completion_expired"
        assert "inline" in refused["error"]["message"]
        text = answer["choices"][0]["message"]["content"]
        await palate.say(kind="thumb", user="ann", prompt="hi", candidates=[text], value=1)


INLINE: dict[str, Any] = {"user": "ann", "prompt": "hi", "candidates": [SHORT, LONG]}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"kind": "thumb", "completion_id": "chatcmpl-unknown", "value": 1}, 404, "completion_id"),
        ({"kind": "thumb", "value": 1}, 400, "completion_id"),
        ({"kind": "thumb", **INLINE, "value": 2}, 400, "value"),
        ({"kind": "thumb", **INLINE, "value": True}, 400, "value"),
        ({"kind": "thumb", **INLINE, "value": 1, "choice": 2}, 400, "choice"),
        ({"kind": "rating", **INLINE, "value": 6}, 400, "value"),
        ({"kind": "comparison", **INLINE, "value": 2}, 400, "value"),
        ({"kind": "comparison", **INLINE, "value": -1}, 400, "value"),
        ({"kind": "comparison", **INLINE, "candidates": [SHORT], "value": 0}, 400, "value"),
        ({"kind": "comparison", **INLINE, "user": None, "value": 0}, 400, "user"),
        ({"kind": "comparison", **INLINE, "prompt": None, "value": 0}, 400, "prompt"),
        ({"kind": "comparison", **INLINE, "candidates": [SHORT, ""], "value": 0}, 400, "candidates"),
        ({"kind": "comparison", **INLINE, "candidates": ["x"] * 17, "value": 0}, 400, "candidates"),
        ({"kind": "comparison", "user": "ann", "question_id": "q-unknown", "value": 0}, 404, "question_id"),
        ({"kind": "ranking", **INLINE, "value": [0, 0]}, 400, "value"),
        ({"kind": "ranking", **INLINE, "value": 0}, 400, "value"),
        ({"kind": "comment", "user": "ann", "value": " "}, 400, "value"),
        ({"kind": "edit", "user": "ann", "prompt": "hi", "value": "x"}, 400, None),
        ({"kind": "demonstration", "user": "ann", "value": "x"}, 400, "prompt"),
        ({"kind": "comment", "user": "a\nb", "value": "x"}, 400, "user"),
        ({"kind": "comment", "user": "ann", "value": "x", "metadata": {"x": "y" * 20_000}}, 400, None),
        ({"kind": "praise", "user": "ann", "value": 1}, 400, "kind"),
        ({"kind": "thumb", "value": 1, "completion_id": "a", "completion_ids": ["b"]}, 400, None),
        ({"kind": "thumb", **INLINE, "completion_id": "a", "value": 1}, 400, None),
    ],
)
async def test_what_cannot_be_is_refused_with_its_reason(
    palate: Palate, body: dict[str, Any], status: int, param: str | None
) -> None:
    error = (await palate.say(status, **body))["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert (await palate.see("/v1/feedback"))["data"] == []


async def test_an_index_beyond_the_choices_is_refused_or_never_counts(palate: Palate) -> None:
    answer = await palate.ask()
    await palate.say(400, kind="comparison", completion_id=answer["id"], value=0)  # only one choice was served
    await palate.say(400, kind="thumb", completion_id=answer["id"], value=1, choice=1)
    await palate.memory.people.announce(ANN, "chatcmpl-racing", palate.memory.people.clock())
    said = await palate.say(kind="comparison", completion_id="chatcmpl-racing", value=7)
    assert said["posterior_version"] == 1  # nothing was learned: it waits for the answer


async def test_nobody_judges_another_persons_answer(palate: Palate) -> None:
    answer = await palate.ask("ann")
    await palate.say(404, kind="thumb", completion_id=answer["id"], value=1, user="bob")
    other = await palate.ask("bob")
    await palate.say(404, kind="comparison", completion_ids=[answer["id"], other["id"]], value=1)


async def test_an_answer_to_nobody_cannot_be_judged(palate: Palate) -> None:
    answer = await palate.ask(user=None)
    refused = await palate.say(404, kind="thumb", completion_id=answer["id"], value=1)
    assert "name a person" in refused["error"]["message"]


async def test_an_answer_to_a_question_counts_without_a_forward_pass(palate: Palate) -> None:
    (question,) = (await palate.see("/v1/users/ann/questions"))["data"]
    said = await palate.say(kind="comparison", user="ann", question_id=question["id"], value=1)
    assert said["posterior_version"] == 1
    (following,) = (await palate.see("/v1/users/ann/questions"))["data"]
    assert following["id"] != question["id"]
    (row,) = (await palate.see("/v1/feedback?user=ann"))["data"]
    assert row["question_id"] == question["id"]


async def test_a_question_takes_the_index_of_one_of_its_answers_or_their_order(palate: Palate) -> None:
    questions = (await palate.see("/v1/users/ann/questions?limit=20"))["data"]
    assert {len(question["candidates"]) for question in questions} == {2, 3, 4}
    for question in questions:
        num, about = len(question["candidates"]), {"user": "ann", "question_id": question["id"]}
        refused = await palate.say(400, kind="comparison", **about, value=num)
        assert refused["error"]["param"] == "value"
        refused = await palate.say(400, kind="ranking", **about, value=[0, num])
        assert refused["error"]["param"] == "value"
        await palate.say(kind="comparison", **about, value=num - 1)
        await palate.say(kind="ranking", **about, value=list(range(num)))
    assert (await palate.see("/v1/users/ann/questions"))["data"] == []


async def test_texts_are_kept_only_where_the_operator_says_so(tmp_path: Path) -> None:
    for keep in (False, True):
        async with running(tmp_path / str(keep), feedback={"keep_texts": keep}) as palate:
            body: dict[str, Any] = {"user": "ann", "prompt": "a secret prompt", "candidates": ["a secret text"]}
            await palate.say(kind="edit", **body, value="a secret wish")
            answer = (await palate.ask())["choices"][0]["message"]["content"]
            exported = (await palate.client.get("/v1/users/ann/export")).text
            assert (answer in exported) == keep
            assert ("secret prompt" in exported) == keep
            assert ("secret text" in exported) == keep
            assert ("secret wish" in exported) == keep


async def test_many_at_once_lose_nothing(palate: Palate) -> None:
    bodies: list[dict[str, Any]] = [
        {"kind": "comparison", **INLINE, "value": i % 2, "idempotency_key": f"k{i // 2}"} for i in range(40)
    ]
    said = await asyncio.gather(*(palate.say(**body) for body in bodies))
    assert sum(not one["duplicate"] for one in said) == 20
    seen = await palate.see("/v1/users/ann")
    assert (seen["num_events"], seen["num_counting"]) == (20, 20)


async def test_feedback_is_counted(palate: Palate) -> None:
    for _ in range(2):
        await palate.say(kind="comment", user="ann", value="fine", idempotency_key="k")
    text = (await palate.client.get("/metrics")).text
    assert 'palate_feedback_total{kind="comment",result="new"} 1.0' in text
    assert 'palate_feedback_total{kind="comment",result="duplicate"} 1.0' in text


async def test_what_personalization_does_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        for value in (1, 1, -1):
            answer = await palate.ask("erika", "hello [[tokens: 40]]", max_tokens=40)
            await palate.say(kind="thumb", completion_id=answer["id"], value=value)
        counted = palate.context.metrics.render().decode()
    samples = dict(line.rsplit(" ", 1) for line in counted.splitlines() if line and line[0] != "#")
    first = 'palate_thumbs_total{arm="base",prototype="0",value="up"}'
    assert float(samples[first]) >= 1  # before any feedback the base answer was served
    assert sum(float(value) for name, value in samples.items() if name.startswith("palate_thumbs_total")) == 3
    assert samples['palate_answers_total{reason="on"}'] == "2.0"
    assert samples['palate_posterior_updates_total{when="now"}'] == "3.0"
    assert samples["palate_learning_seconds_count"] == "3.0"
    assert samples["palate_certainty_count"] == "2.0"
    gains = {name: value for name, value in samples.items() if name.startswith("palate_reward_gain_logits_count")}
    assert sum(map(float, gains.values())) == 2
    assert float(samples['palate_store_seconds_count{call="get_state"}']) >= 3
    assert samples['palate_store_up{store="sqlite"}'] == "1.0"
    assert any(name.startswith("palate_artifact_info{") for name in samples)
    assert "erika" not in counted

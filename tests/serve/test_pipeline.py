"""The way of one request, on the scripted engine with a real store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.artifacts.scripted import scripted_artifact
from serve.config import PersonalizationConfig
from serve.editions import Edition
from serve.engines.protocol import ChatInput, GenerationRequest, MeasureRequest, Sampling
from serve.engines.scripted_engine import ScriptedEngine
from serve.engines.scripted_words import features_of_words
from serve.errors import EngineUnavailable, InvalidRequest
from serve.metrics import Metrics
from serve.people import People, Taste
from serve.pipeline import Pipeline
from serve.planning import Options
from serve.preferences import Preferences
from serve.report import Report
from serve.service import LocalService
from user_store.errors import NotFound, StoreUnavailable
from user_store.open import open_store
from user_store.types import FeedbackEvent, FeedbackKind, Profile, UserKey

MODEL = "m"
LONG, SHORT = "There answer another plain. ", "It is so at. "
ANNA, BEN, NOBODY = (UserKey("default", name) for name in ("anna", "ben", "nobody"))


@dataclass
class World:
    """A pipeline and what stands behind it."""

    engine: ScriptedEngine
    people: People
    pipeline: Pipeline
    num_asked: int = 0

    def request(self, text: str = "Hello", *, is_streaming: bool = False, **sampling: Any) -> GenerationRequest:
        self.num_asked += 1
        settings = {"seed": 1, "max_tokens": 40, "ignore_eos": True, **sampling}
        return GenerationRequest(
            f"chatcmpl-{self.num_asked}",
            Sampling(**settings),
            chat=ChatInput([{"role": "user", "content": text}]),
            is_streaming=is_streaming,
        )

    async def ask(
        self,
        persons: Sequence[UserKey] = (ANNA,),
        options: Options = Options(),  # noqa: B008 - frozen
        request: GenerationRequest | None = None,
    ) -> tuple[list[str], Report]:
        request = request or self.request()
        answer = await self.pipeline.answer(request, persons, options)
        deltas = [delta async for output in answer.outputs for delta in output.deltas]
        num = max((delta.index for delta in deltas), default=-1) + 1
        await self.pipeline.shutdown()
        return ["".join(delta.text for delta in deltas if delta.index == index) for index in range(num)], answer.report

    async def plain(self, request: GenerationRequest) -> list[str]:
        outputs = [output async for output in self.engine.generate(request)]
        return [delta.text for output in outputs for delta in output.deltas]

    async def teach(self, key: UserKey, chosen: str, rejected: str, times: int = 8) -> None:
        """Let a person prefer one text to another."""
        measured = await self.engine.measure(MeasureRequest("x", [chosen, rejected], text="q"))
        for number in range(times):
            event = FeedbackEvent(f"{key.user}-{number}", key, FeedbackKind.COMPARISON, time.time(), value=0)
            evidence = self.people.preferences.evidence(event, [], measured.values)
            await self.people.store.append_event(
                FeedbackEvent(event.id, key, FeedbackKind.COMPARISON, event.created_at, value=0, evidence=evidence)
            )
        await self.people.learn(key)


def _length(text: str) -> float:
    """Measure what `long_words` does."""
    return float(features_of_words([text.split()], "").values[0, 0])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    engine = ScriptedEngine(MODEL)
    await engine.start()
    store = await open_store(f"sqlite://{tmp_path}/people.db")
    people = People(store, Edition(Preferences(scripted_artifact(MODEL))))
    pipeline = Pipeline(LocalService(engine), people, PersonalizationConfig(best_of=8), Metrics())
    yield World(engine, people, pipeline)
    await pipeline.shutdown()
    await people.close()


async def test_somebody_unknown_gets_exactly_the_base_model(world: World) -> None:
    for sampling in ({}, {"n": 3}, {"temperature": 0.0}):
        request = world.request(**sampling)
        texts, report = await world.ask([NOBODY], request=request)
        assert texts == await world.plain(request)
        assert (report.is_personalized, report.reason) == (False, "no_feedback")


@pytest.mark.parametrize("persons", [(), (ANNA,)])
async def test_off_and_nobody_named_leave_the_engine_alone(world: World, persons: Sequence[UserKey]) -> None:
    await world.teach(ANNA, LONG, SHORT)
    request = world.request()
    texts, report = await world.ask(persons, Options(is_off=bool(persons)), request)
    assert texts == await world.plain(request)
    assert report.reason == ("off" if persons else "no_user")
    assert report.verdict is None
    with pytest.raises(NotFound):
        await world.people.store.get_completion("default", request.request_id, now=time.time())


async def test_answers_follow_each_persons_own_taste(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    await world.teach(BEN, SHORT, LONG)
    request = world.request()
    (base,) = await world.plain(request)
    (annas,), report = await world.ask([ANNA], request=request)
    (bens,), _ = await world.ask([BEN], request=world.request())
    assert _length(annas) > _length(base) + 0.3 > _length(bens) + 0.6
    assert report.is_personalized
    assert report.verdict is not None
    assert max(report.attributes, key=lambda name: report.attributes[name]) == "long_words"
    assert report.arms[0].kind == "base"
    (strangers,), _ = await world.ask([NOBODY], request=request)
    assert strangers == base, "nobody else is touched"


async def test_a_seed_makes_the_whole_way_repeatable(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    answers = {tuple((await world.ask(options=Options(best_of=6)))[0]) for _ in range(3)}
    assert len(answers) == 1


@pytest.mark.parametrize("is_streaming", [True, False])
async def test_n_answers_are_the_n_best(world: World, is_streaming: bool) -> None:
    await world.teach(ANNA, LONG, SHORT)
    request = world.request(n=3, is_streaming=is_streaming)
    texts, report = await world.ask(options=Options(best_of=6), request=request)
    assert len(texts) == len(set(texts)) == 3
    assert report.verdict is not None
    rewards = [report.verdict.rewards[arm] for arm in report.verdict.order]
    assert rewards == sorted(rewards, reverse=True)


async def test_one_candidate_is_the_steered_one(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    request = world.request()
    (text,), report = await world.ask(options=Options(best_of=1), request=request)
    assert [arm.kind for arm in report.arms] == ["steered"]
    assert _length(text) > _length((await world.plain(request))[0])
    assert report.to_json()["candidate_tokens"] == 40


async def test_steering_cools_with_heat_and_the_base_is_left_alone(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    doses = {}
    for heat in (1.0, 2.0):
        _, report = await world.ask(options=Options(best_of=3), request=world.request(temperature=heat))
        base, *steered = report.arms
        assert (base.kind, base.dose) == ("base", 0.0)
        doses[heat] = [arm.dose for arm in steered]
        assert report.to_json()["dose"] == pytest.approx(max(doses[heat]), abs=1e-4)
    assert min(doses[1.0]) > 0.0
    np.testing.assert_allclose(doses[2.0], np.array(doses[1.0]) / 8)


async def test_halving_spends_less_and_serves_the_same_taste(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    spent = {}
    for is_halving in (True, False):
        _, report = await world.ask(options=Options(best_of=8, is_halving=is_halving))
        spent[is_halving] = report.to_json()["candidate_tokens"]
    assert spent[False] == 8 * 40
    assert spent[True] == 8 * 24 + 4 * 8 + 2 * 8  # the answers have 40 tokens


async def test_explicit_weights_work_without_a_person_and_add_to_one(world: World) -> None:
    request = world.request()
    (base,) = await world.plain(request)
    (text,), report = await world.ask((), Options(weights={"long_words": 1.0}), request)
    assert _length(text) > _length(base)
    assert (report.is_personalized, report.reason) == (True, "explicit")
    await world.teach(ANNA, LONG, SHORT)
    (against,), _ = await world.ask(options=Options(weights={"long_words": -5.0}))
    assert _length(against) < _length(base)


async def test_strength_zero_is_the_base(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    request = world.request()
    texts, report = await world.ask(options=Options(strength=0.0), request=request)
    assert texts == await world.plain(request)
    assert report.reason == "off"


async def test_pins_and_bars_hold(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    (base,) = await world.plain(world.request())
    barred = Profile(bars=frozenset({"long_words", "o_words", "early_words", "vowel_endings"}))
    await world.people.store.put_profile(ANNA, barred, expected_version=0)
    (text,), report = await world.ask()
    assert text == base
    assert report.attributes == {}
    await world.people.store.put_profile(ANNA, Profile(pins={"long_words": -1.0}), expected_version=1)
    (text,), report = await world.ask()
    assert _length(text) < _length(base)
    assert report.attributes["long_words"] < 0


async def test_several_people_are_answered_together(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    await world.teach(BEN, "To do so or one. ", "It is as if at any. ")
    _, report = await world.ask([ANNA, BEN], Options(best_of=6))
    assert len(report.routes) == 2
    assert len(report.arms) == 6
    steered = {tuple(np.sign(arm.steering_coefficients).tolist()) for arm in report.arms[1:]}
    assert len(steered) > 1, "each has arms of their own"


async def test_what_was_served_is_remembered_for_feedback(world: World) -> None:
    request = world.request()
    await world.ask([ANNA], request=request)
    record = await world.people.store.get_completion("default", request.request_id, now=time.time())
    assert record.features is not None
    assert record.features.shape == (1, 4)
    assert record.arms == ("base",)
    await world.teach(ANNA, LONG, SHORT)
    request = world.request()
    _, report = await world.ask([ANNA], request=request)
    record = await world.people.store.get_completion("default", request.request_id, now=time.time())
    assert report.verdict is not None
    assert record.chosen == report.verdict.order[0]
    assert record.arms[record.chosen] == report.arms[report.verdict.order[0]].kind


async def test_arms_that_break_off_leave_the_rest(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    for arms in ("0", "1,2", "0,1,2"):
        (text,), report = await world.ask(request=world.request(f"Hello [[fail_arm: {arms}]]"))
        assert text
        assert report.verdict is not None
        assert report.verdict.order[0] not in {int(arm) for arm in arms.split(",")}
    with pytest.raises(EngineUnavailable):
        await world.ask(request=world.request("Hello [[fail_arm: 0,1,2,3,4,5,6,7]]"))


class _AwayStore(People):
    async def tastes(self, keys: Sequence[UserKey]) -> list[Taste]:
        raise StoreUnavailable("away")


async def test_without_the_store_the_answer_is_the_base_and_says_so(world: World) -> None:
    people = _AwayStore(world.people.store, Edition(world.people.preferences))
    pipeline = Pipeline(LocalService(world.engine), people, PersonalizationConfig(), Metrics())
    request = world.request()
    answer = await pipeline.answer(request, [ANNA], Options())
    texts = [delta.text async for output in answer.outputs for delta in output.deltas]
    assert texts == await world.plain(request)
    assert (answer.report.reason, answer.report.to_json()["degraded"]) == ("degraded", "store")


async def test_wishes_out_of_bounds_are_refused(world: World) -> None:
    with pytest.raises(InvalidRequest, match="at most 16"):
        await world.ask(options=Options(best_of=17))
    with pytest.raises(InvalidRequest, match=r"no attribute 'mauve'; attributes: early_words, long_words"):
        await world.ask(options=Options(weights={"mauve": 1.0}))


async def test_another_models_artifact_is_not_used(world: World) -> None:
    people = People(world.people.store, Edition(Preferences(scripted_artifact("another"))))
    pipeline = Pipeline(LocalService(world.engine), people, PersonalizationConfig(), Metrics())
    answer = await pipeline.answer(world.request(), [ANNA], Options())
    assert answer.report.reason == "no_artifact"


async def test_texts_are_judged_by_a_person(world: World) -> None:
    await world.teach(ANNA, LONG, SHORT)
    request = MeasureRequest("r", [SHORT, LONG, ""], chat=ChatInput([{"role": "user", "content": "q"}]))
    rewards, report = await world.pipeline.rewards(request, [ANNA], Options())
    assert rewards.mean[1] > rewards.mean[2] > rewards.mean[0]
    assert report.is_personalized
    stranger, report = await world.pipeline.rewards(request, [NOBODY], Options())
    assert np.ptp(stranger.mean) == 0.0
    assert not report.is_personalized

"""Who is served by an adapter: its arm reaches the engine for people of its prototype, and for nobody else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve.artifacts.adapters import servable
from serve.artifacts.scripted import scripted_artifact
from serve.config import PersonalizationConfig
from serve.editions import Edition
from serve.engines.protocol import CandidateRun, ChatInput, EngineArm, GenerationRequest, MeasureRequest, Sampling
from serve.engines.scripted_engine import ScriptedEngine
from serve.metrics import Metrics
from serve.people import People
from serve.pipeline import Pipeline
from serve.planning import Options
from serve.preferences import Preferences
from serve.service import LocalService
from tests.serve.artifacts.test_adapters import write_adapter
from user_store.open import open_store
from user_store.types import FeedbackEvent, FeedbackKind, UserKey

LONG, SHORT = "There answer another plain. ", "It is so at. "
ANNA, BEN, CARA, NOBODY = (UserKey("default", name) for name in ("anna", "ben", "cara", "nobody"))


class Listening(ScriptedEngine):
    """Remembers the arms it was asked for."""

    def __init__(self) -> None:
        super().__init__("m")
        self.arms: Sequence[EngineArm] = ()

    @asynccontextmanager
    async def candidates(self, request: GenerationRequest) -> AsyncIterator[CandidateRun]:
        self.arms = request.arms
        async with super().candidates(request) as run:
            yield run


async def taught(people: People, engine: ScriptedEngine, key: UserKey, texts: Sequence[tuple[str, str]]) -> None:
    for number, pair in enumerate(texts):
        measured = await engine.measure(MeasureRequest("x", list(pair), text="q"))
        event = FeedbackEvent(f"{key.user}-{number}", key, FeedbackKind.COMPARISON, time.time(), value=0)
        evidence = people.preferences.evidence(event, [], measured.values)
        await people.store.append_event(replace(event, evidence=evidence))
    await people.learn(key)


async def arms_for(people: People, engine: Listening, key: UserKey) -> tuple[list[str | None], tuple[str, ...]]:
    """Ask once; give the adapters that the engine was asked for, and the arms that are remembered."""
    pipeline = Pipeline(LocalService(engine), people, PersonalizationConfig(best_of=4), Metrics())
    request = GenerationRequest(
        f"chatcmpl-{key.user}",
        Sampling(seed=1, max_tokens=20, ignore_eos=True),
        chat=ChatInput([{"role": "user", "content": "Hello"}]),
    )
    answer = await pipeline.answer(request, [key], Options())
    async for _ in answer.outputs:
        pass
    await pipeline.shutdown()
    record = await people.store.get_completion("default", request.request_id, now=time.time())
    asked: Sequence[EngineArm] = engine.arms
    return [arm.adapter for arm in asked], record.arms


@pytest.mark.parametrize("max_loras", [0, 2])
async def test_an_adapters_arm_is_for_people_of_its_prototype(tmp_path: Path, max_loras: int) -> None:
    liking_long, liking_short = (str(write_adapter(tmp_path / name)) for name in ("long", "short"))
    artifact = replace(scripted_artifact("m"), adapters=(liking_long, liking_short))
    engine = Listening()
    await engine.start()
    store = await open_store(f"sqlite://{tmp_path}/people.db")
    people = People(store, Edition(Preferences(servable(artifact, max_loras, 8))))
    await taught(people, engine, ANNA, [(LONG, SHORT)] * 8)
    await taught(people, engine, BEN, [(SHORT, LONG)] * 8)
    await taught(people, engine, CARA, [(SHORT, LONG), (LONG, SHORT)] * 4)
    for key, adapter in ((ANNA, liking_long), (BEN, liking_short)):
        asked, remembered = await arms_for(people, engine, key)
        assert [one for one in asked if one] == ([adapter] if max_loras else [])
        assert ("adapter" in remembered) == bool(max_loras)
        assert asked[0] is None
    asked, remembered = await arms_for(people, engine, CARA)  # belongs to neither clearly
    assert not any(asked)
    assert "adapter" not in remembered
    await people.close()

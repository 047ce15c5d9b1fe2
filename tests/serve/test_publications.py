"""A running server follows what is published, and only what can be used."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve.artifacts.registry import JOURNAL, Registry, Signature, signature
from serve.artifacts.storage import save
from serve.home import Home
from tests.patience import until
from tests.serve.api.people import MODEL, Palate, running
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.artifacts_for_tests import make_artifact
from tests.serve.publishing import FIRST, SECOND, registry_of, second_artifact

COMPARISON: dict[str, Any] = {
    "kind": "comparison",
    "prompt": "hi",
    "candidates": ["a b c", "there what clear another"],
    "value": 1,
}
SOON = {"publication_check_s": 0.02}


@pytest.fixture
async def palate(tmp_path: Path) -> AsyncIterator[Palate]:
    async with running(tmp_path, personalization=SOON) as palate:
        yield palate


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_of(tmp_path, second_artifact(MODEL))


async def until_serving(palate: Palate, version: str) -> None:
    """Wait until a version is adopted, and said to be."""
    shown = f'palate_artifact_info{{version="{version}"}} 1.0'
    await until(lambda: palate.memory.people.artifact.version == version)
    await until(lambda: shown in palate.context.metrics.render().decode())


async def until_refused(palate: Palate) -> str:
    await until(lambda: palate.memory.people.in_service.refusal != "")
    seen = await palate.see("/v1/operator")
    assert seen["artifact"]["version"] == palate.memory.people.artifact.version
    reason: str = seen["artifact"]["refusal"]
    return reason


async def test_a_published_version_serves_and_rollback_takes_it_back(palate: Palate, registry: Registry) -> None:
    for _ in range(4):
        await palate.say(**COMPARISON, user="ann")
    before = await palate.ask()
    assert (before["palate"]["artifact"], len(before["palate"]["mixture_weights"])) == (FIRST, 2)
    registry.publish(SECOND)
    await until_serving(palate, SECOND)
    while (during := await palate.ask())["palate"]["artifact"] == FIRST:
        assert len(during["palate"]["mixture_weights"]) == 2  # the old pair, whole
        assert during["palate"]["personalized"]
    assert during["palate"]["personalized"]
    assert len(during["palate"]["mixture_weights"]) == 3
    assert (await palate.see("/v1/users/ann"))["artifact"] == SECOND
    metrics = (await palate.client.get("/metrics")).text
    assert f'palate_artifact_info{{version="{SECOND}"}} 1.0' in metrics
    assert f'palate_artifact_info{{version="{FIRST}"}} 0.0' in metrics
    registry.rollback(MODEL)
    await until_serving(palate, FIRST)
    await palate.say(**COMPARISON, user="ann")
    after = await palate.ask()
    assert (after["palate"]["artifact"], len(after["palate"]["mixture_weights"])) == (FIRST, 2)


async def test_everybody_is_read_anew_without_asking(palate: Palate, registry: Registry) -> None:
    for name in ("ann", "ben", "carl"):
        await palate.say(**COMPARISON, user=name)
    registry.publish(SECOND)
    await until_serving(palate, SECOND)
    index = palate.memory.people.index
    assert index is not None

    async def has_everybody() -> bool:
        return await index.size("default") == 3

    await until(has_everybody)
    assert (await palate.see("/v1/users/ann/neighbors"))["num_people"] == 3


async def test_a_damaged_version_is_refused_and_the_old_one_stays(palate: Palate, registry: Registry) -> None:
    registry.publish(SECOND)
    await until_serving(palate, SECOND)
    third = save(second_artifact(MODEL, "third"), manifest_of(second_artifact(MODEL, "third")), registry.home.artifacts)
    path = third / "population.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    # The command would refuse it; what if it was damaged after?
    (registry.home.artifacts / JOURNAL).write_text(json.dumps({MODEL: [SECOND, "third"]}))
    assert "population.safetensors is not what the manifest says" in await until_refused(palate)
    assert (await palate.ask())["palate"]["artifact"] == SECOND
    metrics = (await palate.client.get("/metrics")).text
    assert "palate_artifact_refusals_total 1.0" in metrics
    registry.rollback(MODEL)
    await until(lambda: palate.memory.people.in_service.refusal == "")
    assert (await palate.see("/v1/operator"))["artifact"]["refusal"] is None


async def test_a_journal_that_cannot_be_read_changes_nothing(palate: Palate, registry: Registry) -> None:
    registry.home.artifacts.mkdir(exist_ok=True)
    (registry.home.artifacts / JOURNAL).write_text("{")
    assert JOURNAL in await until_refused(palate)
    assert (await palate.ask())["palate"]["artifact"] == FIRST


async def test_another_models_version_is_not_taken(
    tmp_path: Path, palate: Palate, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Signature] = []

    def counted(home: Home) -> Signature:
        looks.append(signature(home))
        return looks[-1]

    monkeypatch.setattr("serve.publications.signature", counted)
    real = make_artifact("real", MODEL)  # published for a real engine under the same name
    registry = registry_of(tmp_path, real)
    registry.publish("real")
    published = signature(registry.home)
    await until(lambda: looks.count(published) >= 2)  # the first of them is over
    assert palate.memory.people.artifact.version == FIRST
    assert not palate.memory.people.in_service.refusal


async def test_a_version_named_by_the_configuration_stays(tmp_path: Path) -> None:
    async with running(tmp_path, personalization={**SOON, "artifact": "/elsewhere"}) as palate:
        registry = registry_of(tmp_path, second_artifact(MODEL, "third"))
        registry.publish("third")
        await asyncio.sleep(0.2)
        assert palate.memory.people.artifact.version == FIRST


async def until_tried(palate: Palate, name: str | None) -> None:
    def is_tried() -> bool:
        trial = palate.memory.people.in_service.trial
        return (trial and trial.experiment.name) == name

    await until(is_tried)


async def test_an_experiment_serves_a_share_of_people_with_its_candidate(
    tmp_path: Path, palate: Palate, registry: Registry
) -> None:
    save(second_artifact(MODEL, "third"), manifest_of(second_artifact(MODEL, "third")), registry.home.artifacts)
    registry.publish(SECOND)
    await until_serving(palate, SECOND)
    names = [f"u{number}" for number in range(16)]
    for name in names:
        await palate.say(**COMPARISON, user=name)
    registry.start_experiment("try", "third", 0.5, now=time.time())
    await until_tried(palate, "try")
    expected = {"candidate": "third", "control": SECOND}
    arms = {}
    for name in names:
        await palate.memory.people.settled()
        await palate.ask(name)
        await palate.memory.people.settled()
        answer = await palate.ask(name)
        told = answer["palate"]
        arms[name] = told["experiment"]["arm"]
        assert told["experiment"]["name"] == "try"
        assert told["artifact"] == expected[arms[name]]
        assert told["personalized"]
        await palate.say(kind="thumb", value=1, completion_id=answer["id"])
    assert set(arms.values()) == set(expected)
    metrics = (await palate.client.get("/metrics")).text
    num_candidate = sum(arm == "candidate" for arm in arms.values())
    assert f'palate_experiment_thumbs_total{{arm="candidate",experiment="try",value="up"}} {num_candidate}.0' in metrics
    assert 'palate_experiment_share{experiment="try",version="third"} 0.5' in metrics
    both = [next(name for name in names if arms[name] == arm) for arm in expected]
    several = await palate.ask(None, palate={"users": both})
    assert several["palate"]["artifact"] == SECOND
    assert "experiment" not in several["palate"]
    registry.stop_experiment(MODEL)
    await until_tried(palate, None)
    for name in names:
        await palate.ask(name)
        await palate.memory.people.settled()
        told = (await palate.ask(name))["palate"]
        assert (told["artifact"], "experiment" in told) == (SECOND, False)


async def test_an_experiment_outlives_a_restart(tmp_path: Path, registry: Registry) -> None:
    save(second_artifact(MODEL, "third"), manifest_of(second_artifact(MODEL, "third")), registry.home.artifacts)
    registry.publish(SECOND)
    registry.start_experiment("try", "third", 0.5, now=time.time())
    async with running(tmp_path) as palate:
        trial = palate.memory.people.in_service.trial
        assert trial is not None
        assert trial.edition.version == "third"

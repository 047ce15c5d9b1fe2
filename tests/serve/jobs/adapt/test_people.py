"""Who teaches an adapter and who judges it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from router.routing import RoutingConfig
from serve.artifacts.artifact import Artifact
from serve.jobs.adapt.pairs import Pair, Said
from serve.jobs.adapt.people import (
    HELD_OUT_SHARE,
    MIN_JUDGES,
    MIN_TEACHERS,
    NUM_DRAWN,
    Person,
    drawn_judges,
    held_out_judges,
    is_served,
    read_people,
    taught_pairs,
)
from serve.jobs.fit.gathering import place_of
from tests.serve.artifacts_for_tests import make_artifact
from tests.serve.jobs.fit.cases import fill
from user_store.sqlite_store import open_sqlite

PAIR = Pair((("user", "Hi"),), Said("a"), Said("b"))
ROUTING = RoutingConfig()


def opposed() -> Artifact:
    """Two prototypes that want opposite things of the fourth raw feature, as the people of `fill` do."""
    artifact = make_artifact()
    population = artifact.population
    basis = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.5]])
    means = np.array([[0.0, 0.0, 4.0], [0.0, 0.0, -4.0]])
    return replace(
        artifact,
        population=replace(
            population, basis=basis, means=means, base_weights=np.zeros(3), mixture_weights=np.array([0.5, 0.5])
        ),
    )


def person(share: float, *, is_held_out: bool, num_pairs: int = 2) -> Person:
    return Person(is_held_out, np.array([share, 1.0 - share]), np.array([share, 0.0, 0.0]), (PAIR,) * num_pairs)


async def test_everybody_is_read_once_and_held_out_people_teach_nothing(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    await fill(store, 40, 8)
    seen: list[int] = []
    people = await read_people(store, opposed(), seen.append)
    keys = [key async for tenant in store.list_tenants() async for key in store.iter_users(tenant)]
    await store.close()
    assert len(seen) == len(people) == 40
    assert [one.is_held_out for one in people] == [place_of(key) < HELD_OUT_SHARE for key in keys]
    belongs = np.array([one.shares[0] > 0.5 for one in people])
    likes = np.array([int(key.user.split("-")[1]) % 2 == 0 for key in keys])
    assert (belongs == likes).mean() > 0.9
    assert all((one.weights[2] > 0.0) == likes[i] for i, one in enumerate(people) if max(one.shares) > 0.99)


async def test_who_said_too_little_is_left_out(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "palate.db")
    await fill(store, 3, 2)
    assert await read_people(store, opposed(), lambda _: None) == []
    await store.close()


def test_texts_count_by_how_far_somebody_belongs() -> None:
    people = [person(0.9, is_held_out=False)] * MIN_TEACHERS + [person(0.6, is_held_out=False)] * 5
    people += [person(0.2, is_held_out=False)] * 5
    weights = [pair.weight for pair in taught_pairs(people, 0)]
    assert len(weights) == 2 * (MIN_TEACHERS + 5)
    assert set(np.round(weights, 6)) == {0.9, 0.6}


def test_few_peoples_texts_are_not_trained_on() -> None:
    people = [person(0.9, is_held_out=False)] * (MIN_TEACHERS - 1) + [person(0.9, is_held_out=False, num_pairs=0)] * 9
    assert taught_pairs(people, 0) == []


def test_judges_are_the_held_out_people_whom_the_adapter_would_serve() -> None:
    people = [person(0.9, is_held_out=True)] * MIN_JUDGES + [
        person(0.9, is_held_out=False),
        person(0.55, is_held_out=True),
    ]
    judges = held_out_judges(people, 0, ROUTING)
    assert judges is not None
    assert (len(judges.weights), judges.origin) == (MIN_JUDGES, "held out")
    assert judges.shares.tolist() == [0.9] * MIN_JUDGES
    assert held_out_judges(people[1:], 0, ROUTING) is None


def test_drawn_judges_are_people_of_the_prototype() -> None:
    artifact = opposed()
    judges = drawn_judges(artifact, 1, np.random.default_rng(0))
    assert (judges.weights.shape, judges.origin) == ((NUM_DRAWN, 3), "drawn")
    assert np.abs(judges.weights.mean(axis=0) - artifact.population.means[1]).max() < 4.0 / np.sqrt(NUM_DRAWN)


def test_who_is_served_is_what_routing_says() -> None:
    for shares in ([0.9, 0.1], [0.55, 0.45], [0.6, 0.4], [0.3, 0.7]):
        clear = is_served(np.array(shares), 0, ROUTING)
        assert clear == (shares[0] >= ROUTING.adapter_min_weight and shares[0] - shares[1] >= ROUTING.adapter_margin)
    assert is_served(np.array([1.0]), 0, ROUTING)

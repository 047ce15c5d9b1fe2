"""Who is read with what while publications come and go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serve.artifacts.experiments import Experiment
from serve.editions import MAX_RETIRED, Edition, InService, Trial
from serve.preferences import Preferences
from tests.serve.artifacts_for_tests import make_artifact
from tests.user_store.samples import ANN, NOW
from user_store.types import LogPosition, StoredPosterior, UserKey, UserState


def edition(version: str) -> Edition:
    return Edition(Preferences(make_artifact(version)))


def state(version: str | None, seq: int = 1) -> UserState:
    position = LogPosition("e", seq)
    if version is None:
        return UserState(ANN, position=position)
    return UserState(
        ANN, posterior=StoredPosterior({"num_events": np.array(1)}, version, position, NOW), position=position
    )


def versions(serving: InService) -> list[str]:
    return [one.version for one in serving.editions()]


def test_a_posterior_stays_with_the_edition_that_made_it() -> None:
    serving = InService(edition("a1")).followed_by(edition("a2"))
    assert serving.reading(state("a1")).version == "a1"
    assert serving.reading(state("a2")).version == "a2"
    assert serving.reading(state("a0")).version == "a2"  # nobody knows that one
    assert serving.reading(state(None)).version == "a2"


def test_who_is_behind() -> None:
    serving = InService(edition("a1")).followed_by(edition("a2"))
    assert serving.is_behind(state("a1"))
    assert not serving.is_behind(state("a2"))
    assert serving.is_behind(state(None))
    assert not serving.is_behind(state(None, seq=0))
    assert serving.is_behind(replace(state("a2"), num_pending=1))  # its answer may be stored by now


def test_going_back_keeps_the_one_that_is_left_for_those_still_read_with_it() -> None:
    serving = InService(edition("a1")).followed_by(edition("a2")).followed_by(edition("a1"))
    assert versions(serving) == ["a1", "a2"]
    assert serving.reading(state("a2")).version == "a2"


def trial(version: str, share: float = 0.5) -> Trial:
    return Trial(Experiment("try", "m", version, "a1", share, NOW), edition(version))


def test_an_experiment_reads_its_share_of_people_with_the_candidate() -> None:
    serving = InService(edition("a1")).trying(trial("a2"))
    keys = [UserKey("acme", f"u{number}") for number in range(200)]
    on_candidate = [key for key in keys if serving.meant_for(key).version == "a2"]
    assert 70 < len(on_candidate) < 130
    assert serving.assignment(on_candidate[0]) == ("try", "candidate")
    assert {serving.assignment(key) for key in set(keys) - set(on_candidate)} == {("try", "control")}
    assert [one.version for one in serving.live()] == ["a1", "a2"]


def test_who_was_on_the_candidate_is_read_with_it_until_read_anew() -> None:
    serving = InService(edition("a1")).trying(trial("a2", share=0.999999))
    assert serving.is_behind(state("a1"))
    assert serving.reading(state("a1")).version == "a1"
    ended = serving.trying(None)
    assert ended.assignment(ANN) is None
    assert ended.is_behind(state("a2"))
    assert ended.reading(state("a2")).version == "a2"
    assert versions(ended) == ["a1", "a2"]
    won = serving.followed_by(edition("a2")).trying(None)
    assert versions(won) == ["a2", "a1"]


def test_few_editions_are_kept() -> None:
    serving = InService(edition("a0"))
    for number in range(1, 6):
        serving = serving.followed_by(edition(f"a{number}"))
    assert versions(serving) == ["a5", "a4", "a3"]
    assert len(serving.retired) == MAX_RETIRED

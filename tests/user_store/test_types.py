"""Records refuse what no store could keep."""

from typing import Any

import numpy as np
import pytest

from tests.user_store.samples import ANN, NOW, completion, event, features, posterior
from user_store.types import CompletionRecord, EventFilter, LogPosition, Profile, UserKey, UserState, check_one_person
from user_store.validation import MAX_EVIDENCE_BYTES, MAX_TEXT_CHARS, check_json, frozen_array


@pytest.mark.parametrize("tenant", ["", "a:b", "a/b", "a b", ".a", "é", "x" * 65, "a\n"])
def test_tenants_are_plain_words(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        UserKey(tenant, "ann")


@pytest.mark.parametrize("user", ["", "x" * 257, "a\nb", "a\0", "\ud800", "\x9b"])
def test_users_are_printable(user: str) -> None:
    with pytest.raises(ValueError, match="user"):
        UserKey("acme", user)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "applause"},
        {"created_at": float("nan")},
        {"created_at": -1.0},
        {"completion_ids": ("a b",)},
        {"completion_ids": tuple(f"c{n}" for n in range(65))},
        {"value": float("inf")},
        {"value": object()},
        {"metadata": {"a": "x" * 20_000}},
        {"metadata": {1: {2, 3}}},
        {"reason": "x" * (MAX_TEXT_CHARS + 1)},
        {"idempotency_key": ""},
        {"subject": "a\tb"},
        {"is_pending": True},
        {"is_pending": True, "completion_ids": ("c1",), "evidence": {"x": features(0, 2)}},
        {"evidence": {"x": np.zeros(2)}},
        {"evidence": {"x": np.array([np.nan], np.float32)}},
        {"evidence": {"no spaces": features(0, 2)}},
    ],
)
def test_events_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        event("e1", **changes)


@pytest.mark.parametrize("event_id", ["", "a b", "-a", "x" * 129, "é"])
def test_event_ids_are_plain_words(event_id: str) -> None:
    with pytest.raises(ValueError, match="id must be"):
        event(event_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": NOW},
        {"features": np.zeros((2, 3))},
        {"features": features(0, 3)},
        {"features": features(0, 0, 3), "arms": ()},
        {"arms": ("base",)},
        {"chosen": 2},
        {"chosen": -1},
        {"texts": ("one",)},
        {"artifact_version": "a\nb"},
    ],
)
def test_completions_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        completion("c1", **changes)


def test_an_announced_completion_needs_no_features() -> None:
    assert CompletionRecord("c1", ANN, NOW, NOW + 1).is_announced_only


@pytest.mark.parametrize(
    "changes",
    [
        {"pins": {"formal": float("nan")}},
        {"pins": {"": 1.0}},
        {"pins": {"lists": 1.0}, "bars": frozenset({"lists"})},
        {"bars": frozenset({"x" * 65})},
        {"bars": frozenset(str(number) for number in range(257))},
    ],
)
def test_profiles_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        Profile(**changes)


@pytest.mark.parametrize("changes", [{"limit": 0}, {"limit": 1001}, {"user": ""}, {"after": "a b"}, {"since": -1.0}])
def test_filters_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        EventFilter(**changes)


def test_arrays_are_copied_and_read_only() -> None:
    source = features(0, 4)
    copy = frozen_array("x", source)
    source[0] = 99
    assert copy[0] != 99
    with pytest.raises(ValueError, match="read-only"):
        copy[0] = 1


def test_arrays_keep_shape_and_become_contiguous() -> None:
    array = frozen_array("x", np.asarray(features(0, 3, 5).T))
    assert (array.shape, array.flags.c_contiguous) == ((5, 3), True)
    assert frozen_array("x", np.array(3, np.int64)).shape == ()


def test_arrays_have_a_bound_and_plain_types() -> None:
    with pytest.raises(ValueError, match="at most"):
        event("e1", evidence={"x": np.zeros(MAX_EVIDENCE_BYTES // 4 + 1, np.float32)})
    with pytest.raises(ValueError, match="dtype"):
        frozen_array("x", np.array(["text"]))


def test_deep_nesting_is_refused_not_crashed_on() -> None:
    value: object = None
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested"):
        check_json("value", value, 1000)


def test_a_state_is_current_when_the_posterior_has_seen_the_log() -> None:
    position = LogPosition("epoch", 3, 1)
    assert UserState(ANN, posterior=posterior(0, position), position=position).is_current
    assert not UserState(ANN, posterior=posterior(0, LogPosition("epoch", 2, 1)), position=position).is_current
    assert not UserState(ANN, posterior=posterior(0, LogPosition("epoch", 3, 0)), position=position).is_current
    assert not UserState(ANN, position=position).is_current
    assert UserState(ANN, position=LogPosition("epoch")).is_current


def test_one_call_is_about_one_person() -> None:
    check_one_person([event("e1"), event("e2")])
    with pytest.raises(ValueError, match="one person"):
        check_one_person([event("e1"), event("e2", UserKey("acme", "bob"))])

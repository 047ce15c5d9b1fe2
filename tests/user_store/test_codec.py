"""Records survive their encoding, and damaged bytes are named as such."""

import pytest

from tests.user_store.samples import ANN, completion, event, features
from user_store import codec
from user_store.errors import CorruptRecord
from user_store.types import Profile


def test_equal_arrays_give_equal_bytes() -> None:
    one = codec.dump_arrays({"a": features(0, 2), "b": features(1, 3)})
    other = codec.dump_arrays({"b": features(1, 3), "a": features(0, 2)})
    assert one == other


def test_an_event_encodes_only_what_it_has() -> None:
    assert codec.event_body(event("e1", value=None)) == '{"id":"e1","kind":"thumb","created_at":1700000000.0}'


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 100, b"not arrays"])
def test_damaged_arrays_are_named(data: bytes) -> None:
    with pytest.raises(CorruptRecord, match="a posterior"):
        codec.load_arrays(data, "a posterior")


@pytest.mark.parametrize("body", ["", "[]", "{", '{"id":"e1"}', '{"id":"e1","kind":"x","created_at":1}', "[" * 100_000])
def test_damaged_events_are_named_without_their_content(body: str) -> None:
    with pytest.raises(CorruptRecord, match="event 7 of tenant acme"):
        codec.decode_event(ANN, body, None, seq=7, is_withdrawn=False)


@pytest.mark.parametrize("body", ["{}", '{"id": 3, "user": "ann"}', "null"])
def test_damaged_completions_are_named(body: str) -> None:
    with pytest.raises(CorruptRecord, match="completion"):
        codec.decode_completion("acme", body, None)


def test_a_completion_without_its_features_array_is_damaged() -> None:
    body = codec.completion_body(completion("c1"))
    with pytest.raises(CorruptRecord):
        codec.decode_completion("acme", body, codec.dump_arrays({"other": features(0, 2)}))


def test_damaged_profiles_are_named() -> None:
    with pytest.raises(CorruptRecord):
        codec.decode_profile('{"pins": 3}', created_at=0.0, version=1)
    assert codec.decode_profile(None, created_at=5.0, version=0) == Profile(created_at=5.0)

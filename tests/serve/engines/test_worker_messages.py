from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from serve.engines.worker_messages import Projection, States, TokenFeatures, WorkerConfig, pack, unpack

H, D = 6, 3
DIRECTIONS = np.arange(H * D, dtype=np.float32).reshape(H, D)
PROJECTION = Projection(
    np.ones((D, 2 * H), dtype=np.float32), np.zeros(2 * H, dtype=np.float32), np.ones(2 * H, dtype=np.float32)
)
TOKENS = TokenFeatures(np.array([5, 2]), np.array([0.4, 0.1], np.float32), np.ones((2, D), np.float32))
CONFIG = WorkerConfig((3, 1), 2, DIRECTIONS, 0.25, PROJECTION, "v7", 9, TOKENS)


def test_arrays_survive_msgpack() -> None:
    sent = np.array([[1.5, -2.0], [np.inf, 0.0]], dtype=np.float32)
    received = unpack(msgspec.msgpack.decode(msgspec.msgpack.encode(pack(sent))))
    np.testing.assert_array_equal(received, sent)
    received[0, 0] = 7  # an array of its own, not a view of the message
    # What is not contiguous is sent in order.
    np.testing.assert_array_equal(unpack(pack(sent.T)), sent.T)


def test_the_configuration_survives_msgpack() -> None:
    received = WorkerConfig.from_message(msgspec.msgpack.decode(msgspec.msgpack.encode(CONFIG.to_message())))
    np.testing.assert_array_equal(received.directions, DIRECTIONS)
    assert received.projection is not None
    np.testing.assert_array_equal(received.projection.basis, PROJECTION.basis)
    assert (received.pooled_layers, received.steered_layer, received.layers) == ((3, 1), 2, (1, 2, 3))
    assert (received.max_dose, received.version, received.max_finished) == (0.25, "v7", 9)
    assert received.token_features is not None
    for name in ("tokens", "shares", "features"):
        np.testing.assert_array_equal(getattr(received.token_features, name), getattr(TOKENS, name))
    bare = WorkerConfig.from_message(replace(CONFIG, projection=None, token_features=None).to_message())
    assert bare.projection is None
    assert bare.token_features is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.array([5, 5])}, "different"),
        ({"tokens": np.array([-1, 5])}, "from 0"),
        ({"tokens": np.array([5])}, "ids"),
        ({"tokens": np.array([5.0, 2.0])}, "whole"),
        ({"tokens": np.array([[5, 2]])}, "ids"),
        ({"shares": np.array([0.4, 0.0], np.float32)}, "above 0"),
        ({"shares": np.array([0.4, np.inf], np.float32)}, "at most 1"),
        ({"features": np.full((2, D), np.inf, np.float32)}, "finite"),
    ],
)
def test_token_features_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TOKENS, **change)  # type: ignore[arg-type]


def test_states_survive_msgpack() -> None:
    states = States("v7", {"a": 2, "0_b": 5}, {"a": np.ones((2, H), np.float32), "0_b": np.zeros((2, H), np.float32)})
    received = States.from_message(msgspec.msgpack.decode(msgspec.msgpack.encode(states.to_message())))
    assert (received.version, received.counts) == ("v7", {"a": 2, "0_b": 5})
    np.testing.assert_array_equal(received.values["a"], np.ones((2, H)))
    assert States.from_message(States("v7", {}, {}).to_message()) == States("v7", {}, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": DIRECTIONS[0]}, "directions"),
        ({"directions": np.full_like(DIRECTIONS, np.nan)}, "directions"),
        ({"max_dose": 1.5}, "largest dose"),
        ({"max_dose": float("nan")}, "largest dose"),
        ({"pooled_layers": (1, 1)}, "Layers"),
        ({"pooled_layers": (1, -1)}, "Layers"),
        ({"pooled_layers": (1,)}, "make 6 values"),
        ({"max_finished": -1}, "max_finished"),
        ({"token_features": replace(TOKENS, features=np.ones((2, D + 1), np.float32))}, "directions"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros(H, np.float32)},
        {"scale": np.zeros(2 * H, np.float32)},
        {"basis": np.full((D, 2 * H), np.inf, np.float32)},
    ],
)
def test_a_projection_that_cannot_be_applied_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="projection"):
        replace(PROJECTION, **change)  # type: ignore[arg-type]

from __future__ import annotations

from typing import Any

import pytest

from serve.engines.steering_request import KEY, SteeringRequest, from_extra_args, may_be_steered


@pytest.mark.parametrize(
    "request_",
    [
        SteeringRequest(),
        SteeringRequest((0.5, -1.0), pool=True),
        SteeringRequest((0.5, -1.0), dose=0.2),
        SteeringRequest((), dose=0.0, pool=True),
        SteeringRequest(pool=True, repetition_penalty=1.1),
        SteeringRequest((1.0,), dose=0.1, tilt=0.4),
    ],
)
def test_what_is_written_is_read(request_: SteeringRequest) -> None:
    assert from_extra_args(request_.to_extra_args()) == request_


@pytest.mark.parametrize("extra_args", [None, {}, {"kv_transfer_params": {}}])
def test_requests_of_others_ask_for_nothing(extra_args: dict[str, Any] | None) -> None:
    assert from_extra_args(extra_args) is None
    assert not may_be_steered(extra_args)


@pytest.mark.parametrize(
    "fields",
    [
        {"coefs": [1.0]},
        {"coeffs": 1.0},
        {"coeffs": [None]},
        {"coeffs": ["x"]},
        {"coeffs": [float("nan")]},
        {"coeffs": [1.0], "dose": -0.1},
        {"coeffs": [1.0], "dose": "much"},
        {"coeffs": [1.0], "pool": 1},
        {"repetition_penalty": "much"},
        {"repetition_penalty": 0.9},
        {"repetition_penalty": 3.0},
        {"tilt": -0.1},
        {"tilt": 1.1},
        {"tilt": "much"},
        [1.0],
    ],
)
def test_the_unreadable_is_an_error_and_counts_as_steered(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"takes|take|list|finite|dose|numbers|penalty|tilt"):
        from_extra_args({KEY: fields})
    assert may_be_steered({KEY: fields})


@pytest.mark.parametrize(
    ("request_", "is_steered"),
    [
        (SteeringRequest(pool=True), False),
        (SteeringRequest((0.0, 0.0)), False),
        (SteeringRequest((1.0,), dose=0.0), False),
        (SteeringRequest((0.0, 1e-6)), True),
    ],
)
def test_only_what_adds_something_is_steered(request_: SteeringRequest, is_steered: bool) -> None:
    assert request_.is_steered is is_steered
    assert may_be_steered(request_.to_extra_args()) is is_steered

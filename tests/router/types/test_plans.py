from dataclasses import replace

import numpy as np
import pytest

from router.mixture import Mixture
from router.types import Arm, CandidatePlan, Route
from tests.router.types.cases import D


def test_routes_and_arms_check_themselves() -> None:
    still = np.zeros(D)
    taste = Mixture(np.array([1.0]), np.zeros((1, D)), np.eye(D)[None])
    route = Route(np.array([1.0]), still, 0.0, 0.5, 0.5, None, "no_feedback", taste, taste, 0.0, still)
    assert route.is_zero
    assert not route.is_steered
    assert replace(route, adapter="formal").is_steered
    assert not replace(route, steering="gate").is_zero
    assert replace(route, steering="on", dose=0.1).is_steered
    with pytest.raises(ValueError, match="certainty"):
        replace(route, certainty=1.5)
    with pytest.raises(ValueError, match="dose"):
        replace(route, dose=-1.0)
    with pytest.raises(ValueError, match="judge"):
        replace(route, judge=Mixture(np.array([1.0]), np.zeros((1, 2)), np.eye(2)[None]))
    plan = CandidatePlan((Arm("base", still), Arm("steered", np.ones(D), 0.1)))
    assert plan.num_arms == 2
    assert CandidatePlan((Arm("steered", np.ones(D), 0.1),)).num_arms == 1
    with pytest.raises(ValueError, match="first of several"):
        CandidatePlan((Arm("steered", np.ones(D), 0.1), Arm("base", still)))
    with pytest.raises(ValueError, match="at least one"):
        CandidatePlan(())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "magic"}, "kind must be one of"),
        ({"dose": -0.1}, "dose"),
        ({"dose": 0.1}, "not steered"),
        ({"adapter": "a"}, "adapter"),
        ({"instruction": "Be brief."}, "instruction"),
    ],
)
def test_arm_refuses_what_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Arm("base", np.zeros(D)), **change)  # type: ignore[arg-type]

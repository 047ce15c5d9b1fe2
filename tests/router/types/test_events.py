import numpy as np
import pytest

from router.types import Choice, Comparison, Ranking, Rating, Thumb
from tests.router.types.cases import D


def test_events_check_their_shapes() -> None:
    one, two = np.ones(D), np.ones(2)
    assert Comparison(event_id="e", chosen=one, rejected=one).weight == 1.0
    with pytest.raises(ValueError, match="rejected must have shape"):
        Comparison(event_id="e", chosen=one, rejected=two)
    with pytest.raises(ValueError, match="event_id"):
        Comparison(event_id="", chosen=one, rejected=one)
    with pytest.raises(ValueError, match="weight must be positive"):
        Comparison(event_id="e", chosen=one, rejected=one, weight=0.0)
    with pytest.raises(ValueError, match="time_s"):
        Comparison(event_id="e", chosen=one, rejected=one, time_s=np.inf)
    with pytest.raises(ValueError, match="at least one rejected"):
        Choice(event_id="e", chosen=one, rejected=np.ones((0, D)))
    with pytest.raises(ValueError, match="at least two"):
        Ranking(event_id="e", features=np.ones((1, D)))
    with pytest.raises(ValueError, match="1 \\(up\\) or -1 \\(down\\)"):
        Thumb(event_id="e", features=one, reference=one, value=0)
    with pytest.raises(ValueError, match="counts from 0"):
        Rating(event_id="e", features=one, reference=one, level=-1)

"""An operator's overview from a scrape, with numbers worked out by hand."""

from __future__ import annotations

import pytest

from serve.metrics import Metrics
from serve.overview import Thumbs, overview

SCRAPE = """\
# TYPE palate_requests counter
palate_requests_total{path="/v1/chat/completions",status="200"} 7.0
palate_requests_total{path="/v1/chat/completions",status="400"} 2.0
palate_requests_total{path="/v1/chat/completions",status="503"} 1.0
palate_requests_total{path="/health",status="200"} 99.0
# TYPE palate_first_byte_seconds histogram
palate_first_byte_seconds_bucket{path="/v1/chat/completions",le="0.1"} 4.0
palate_first_byte_seconds_bucket{path="/v1/chat/completions",le="0.2"} 8.0
palate_first_byte_seconds_bucket{path="/v1/chat/completions",le="+Inf"} 10.0
palate_first_byte_seconds_count{path="/v1/chat/completions"} 10.0
palate_first_byte_seconds_sum{path="/v1/chat/completions"} 2.0
# TYPE palate_answers counter
palate_answers_total{reason="on"} 5.0
palate_answers_total{reason="no_user"} 2.0
# TYPE palate_candidate_tokens counter
palate_candidate_tokens_total{fate="served"} 100.0
palate_candidate_tokens_total{fate="spent"} 75.0
# TYPE palate_reward_gain_logits histogram
palate_reward_gain_logits_bucket{le="+Inf",prototype="0"} 5.0
palate_reward_gain_logits_count{prototype="0"} 5.0
palate_reward_gain_logits_sum{prototype="0"} 10.0
palate_reward_gain_logits_bucket{le="+Inf",prototype="1"} 5.0
palate_reward_gain_logits_count{prototype="1"} 5.0
palate_reward_gain_logits_sum{prototype="1"} 1.0
"""
THUMBS = """\
# TYPE palate_thumbs counter
palate_thumbs_total{value="up",arm="steered",prototype="0"} 2.0
palate_thumbs_total{value="down",arm="steered",prototype="0"} 3.0
palate_thumbs_total{value="up",arm="base",prototype="1"} 4.0
palate_thumbs_total{value="down",arm="steered",prototype="1"} 1.0
palate_thumbs_total{value="up",arm="base",prototype="none"} 9.0
"""


def test_requests_tokens_and_gain() -> None:
    found = overview(SCRAPE)
    assert (found.num_requests, found.num_refused, found.num_failed) == (10, 2, 1)
    assert found.answers == {"on": 5, "no_user": 2}
    assert (found.num_served_tokens, found.num_spent_tokens) == (100, 75)
    assert found.mean_gain == pytest.approx(1.1)


def test_quantiles_are_linear_within_a_bucket() -> None:
    p50, p95 = overview(SCRAPE).first_byte_s
    assert p50 == pytest.approx(0.125)
    assert p95 == pytest.approx(0.2)  # beyond the last bound there is nothing to go by


def test_the_worst_is_found_by_thumbs_where_there_are_enough_else_by_gain() -> None:
    assert overview(SCRAPE).worst == 1  # gains .2, against 2.0
    found = overview(SCRAPE + THUMBS)
    assert found.worst == 0  # 2 of 5 up, against 4 of 5
    assert found.thumbs == {"base": Thumbs(13, 0), "steered": Thumbs(2, 4)}
    assert [one.thumbs for one in found.cohorts] == [Thumbs(2, 3), Thumbs(4, 1)]


def test_a_fresh_server_has_an_overview() -> None:
    found = overview(Metrics().render().decode())
    assert (found.num_requests, found.mean_gain, found.first_byte_s, found.worst) == (0, None, (None, None), None)
    assert found.cohorts == ()

"""Figures of a load: by kind, against bounds, drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serve.jobs.load.memory import Reading
from serve.jobs.load.report import Run, draw, render, summarise
from serve.jobs.load.traffic import Observation

READINGS = [Reading(float(at_s), {"Engine": 800 * 2**20, "Ingress": 200 * 2**20}) for at_s in range(100)]
GOOD = [
    *(Observation(at_s / 10, "plain stream", "200", at_s / 1_000, at_s / 4_000) for at_s in range(1_000)),
    *(Observation(at_s, "personal whole", "429 queue_full", 0.01) for at_s in range(100)),
    *(Observation(at_s, "thumb", "200", 0.02) for at_s in range(50)),
]
RUN = Run(sustained=12.0, rate=18.0, seconds=100.0, warm_up_s=20.0, observations=GOOD, readings=READINGS, full_house=40)


def test_a_good_run_has_nothing_amiss() -> None:
    figures = summarise(RUN)
    assert figures["amiss"] == []
    assert figures["statuses"] == {"200": 1_050, "429 queue_full": 100}
    assert figures["offered_per_s"] == 11.0
    assert figures["accepted_per_s"] == 10.0
    assert figures["accepted"]["count"] == 1_000
    assert figures["max_p99_s"] == 8.0  # forty inside, ten a second: four seconds, twice
    assert summarise(replace(RUN, full_house=4))["max_p99_s"] == 5.0
    assert figures["accepted"]["p99_s"] == pytest.approx(0.989, abs=1e-3)
    assert figures["by_kind"]["plain stream"]["first_p50_s"] == pytest.approx(0.125, abs=1e-3)
    assert figures["by_kind"]["thumb"]["count"] == 50
    assert figures["memory"]["growth_percent"] == 0.0
    assert set(figures["memory_by_process"]) == {"Engine", "Ingress"}
    text = render(figures)
    assert "amiss: nothing" in text
    assert "memory of all: 1,000 → 1,000 MiB (+0.0 %)" in text


def test_minutes_add_up() -> None:
    minutes = summarise(RUN)["by_minute"]
    assert [one["minute"] for one in minutes] == [0, 1]
    assert [one["accepted"] for one in minutes] == [600, 400]
    assert [one["refused"] for one in minutes] == [60, 40]
    assert [one["failed"] for one in minutes] == [0, 0]
    assert minutes[0]["p99_s"] == pytest.approx(0.594, abs=2e-3)
    assert minutes[1]["memory_bytes"] == 1_000 * 2**20


def test_a_run_that_goes_on_is_reported_as_far_as_it_went() -> None:
    begun = replace(RUN, seconds=10.0, observations=GOOD[:100], readings=READINGS[:10], is_complete=False)
    figures = summarise(begun)
    assert not figures["is_complete"]
    assert summarise(RUN)["is_complete"]
    assert figures["accepted_per_s"] == 10.0
    assert [one["accepted"] for one in figures["by_minute"]] == [100]
    assert "memory" not in figures  # still warming up
    assert summarise(replace(begun, readings=READINGS[:30]))["memory"]["growth_percent"] == 0.0


def test_what_is_beyond_a_bound_is_said() -> None:
    growing = [Reading(one.at_s, {"Engine": int(800 * 2**20 * (1 + one.at_s / 1_000))}) for one in READINGS]
    bad = [*GOOD, Observation(3.0, "plain whole", "500 internal_error", 0.1)]
    slow = [replace(one, seconds=12 * one.seconds) for one in bad]
    said = summarise(replace(RUN, observations=slow, readings=growing))["amiss"]
    assert len(said) == 3
    assert said[0] == "1 requests ended with '500 internal_error'"
    assert said[1].startswith("memory grew by 7.")
    assert "99th percentile" in said[2]
    refused = [one for one in GOOD if one.is_refused]
    assert summarise(replace(RUN, observations=refused))["amiss"] == [
        "0.00 requests a second were accepted under load, where 12.00 are sustained without"
    ]


def test_it_is_drawn(tmp_path: Path) -> None:
    for name, run in (("all", RUN), ("bare", replace(RUN, readings=(), full_house=None))):
        draw(run, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "memory" not in summarise(replace(RUN, readings=()))

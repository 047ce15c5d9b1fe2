"""A person's own view through HTTP: see, decide, take along, erase."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from serve.api import users
from serve.keys import KeyFile, Scope
from tests.serve.api.people import Palate, running

LONG, SHORT = "there what clear another", "a b c"


@pytest.fixture
async def palate(tmp_path: Path) -> AsyncIterator[Palate]:
    async with running(tmp_path) as palate:
        yield palate


async def teach(palate: Palate, user: str = "ann", times: int = 3, value: int = 1) -> None:
    for _ in range(times):
        await palate.say(kind="comparison", user=user, prompt="hi", candidates=[SHORT, LONG], value=value)


async def test_beliefs_come_with_intervals_and_their_reasons(palate: Palate) -> None:
    await teach(palate, times=8)
    seen = await palate.see("/v1/users/ann")
    assert seen["id"] == "ann"
    assert sum(seen["mixture_weights"]) == pytest.approx(1.0)
    (long_words,) = [row for row in seen["attributes"] if row["name"] == "long_words"]
    assert long_words["low"] < long_words["mean"] < long_words["high"]
    assert long_words["mean"] > 0
    listed = {row["id"] for row in (await palate.see("/v1/feedback?user=ann"))["data"]}
    assert {lesson["feedback_id"] for lesson in long_words["taught_by"]} <= listed
    assert len(long_words["taught_by"]) == 3
    assert "8 pieces of feedback" in seen["summary"]


async def test_what_drove_past_choices_is_told(palate: Palate) -> None:
    await teach(palate, times=10)
    for text in ("one", "two", "three", "four"):
        await palate.ask(text=text, palate={"best_of": 8})
    seen = await palate.see("/v1/users/ann")
    assert sum(row["decision_share"] for row in seen["attributes"]) + seen["unnamed_share"] == pytest.approx(1.0)


async def test_nobody_unknown_is_shown(palate: Palate) -> None:
    for path in ("", "/export", "/neighbors"):
        await palate.see(f"/v1/users/nobody{path}", 404)


async def test_pins_bars_and_pauses_are_decisions_that_stay(palate: Palate) -> None:
    async def change(status: int = 200, **body: Any) -> dict[str, Any]:
        response = await palate.client.patch("/v1/users/ann", json=body)
        assert response.status_code == status, response.text
        changed: dict[str, Any] = response.json()
        return changed

    await change(pins={"long_words": 0.5}, bars=["o_words"])
    changed = await change(learning_paused=True, pins={"early_words": -1})
    assert changed["pins"] == {"early_words": -1, "long_words": 0.5}
    assert (changed["bars"], changed["learning_paused"]) == (["o_words"], True)
    changed = await change(pins={"long_words": None}, bars=[], learning_paused=False)
    assert (changed["pins"], changed["bars"], changed["learning_paused"]) == ({"early_words": -1}, [], False)
    refused = await change(400, pins={"unheard_of": 1})
    assert "long_words" in refused["error"]["message"]
    await change(400, bars=["early_words"])  # pinned already
    await change(400, pins={"long_words": 1e9})
    assert (await palate.see("/v1/users/ann"))["pins"] == {"early_words": -1}


async def test_a_pin_shapes_the_next_answer(palate: Palate) -> None:
    plain = await palate.ask(seed=1)
    await palate.client.patch("/v1/users/ann", json={"pins": {"long_words": 1.0}})
    pinned = await palate.ask(seed=1, palate={"best_of": 8})
    assert pinned["palate"]["personalized"]
    assert not plain["palate"]["personalized"]


async def test_an_export_carries_everything_to_another_server(palate: Palate, tmp_path: Path) -> None:
    answer = await palate.ask()
    await palate.say(kind="thumb", completion_id=answer["id"], value=1, reason="good", metadata={"app": "x"})
    await teach(palate)
    await palate.client.patch("/v1/users/ann", json={"pins": {"long_words": 0.5}})
    exported = await palate.client.get("/v1/users/ann/export")
    assert exported.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in exported.text.splitlines()]
    assert [line["type"] for line in lines] == ["profile", *["event"] * 4, "completion", "posterior"]
    before = await palate.see("/v1/users/ann")
    async with running(tmp_path / "other") as other:
        for times in range(2):  # a repeated import adds nothing
            response = await other.client.post("/v1/users/ann/import", content=exported.text)
            assert response.status_code == 200, response.text
            assert response.json()["num_duplicates"] == 4 * times
        after = await other.see("/v1/users/ann")
        assert after["pins"] == {"long_words": 0.5}
        for one, same in zip(before["attributes"], after["attributes"], strict=True):
            assert one["mean"] == pytest.approx(same["mean"], abs=1e-6)
        said = await other.say(kind="rating", completion_id=answer["id"], value=1)
        assert said["posterior_version"] > 0


async def test_an_import_may_hold_line_separators_in_its_words(palate: Palate) -> None:
    """Other tools write an export anew without escapes; only a line feed ends a line of it."""
    answer = await palate.ask()
    await palate.say(kind="thumb", completion_id=answer["id"], value=1, reason="so\u2028so\x85", metadata={})
    exported = (await palate.client.get("/v1/users/ann/export")).text
    raw = "".join(json.dumps(json.loads(line), ensure_ascii=False) + "\n" for line in exported.split("\n") if line)
    assert "\u2028" in raw
    response = await palate.client.post("/v1/users/ann/import", content=raw.encode())
    assert response.status_code == 200, response.text


async def test_exports_and_imports_are_written_and_read_off_the_event_loop(
    palate: Palate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await palate.say(kind="comment", user="ann", value="mine")
    threads: list[int] = []

    def noting(work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            threads.append(threading.get_ident())
            return work(*args)

        return noted

    for name in ("export_lines", "parse_lines"):
        monkeypatch.setattr(f"serve.api.users.{name}", noting(getattr(users, name)))
    exported = await palate.client.get("/v1/users/ann/export")
    assert (await palate.client.post("/v1/users/ann/import", content=exported.text)).status_code == 200
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_nothing_of_another_person_can_be_imported_over(palate: Palate) -> None:
    answer = await palate.ask("ann")
    await palate.say(kind="comment", user="ann", value="mine")
    exported = (await palate.client.get("/v1/users/ann/export")).text
    for kind in ("event", "completion"):
        lines = [line for line in exported.splitlines() if json.loads(line)["type"] in ("profile", kind)]
        response = await palate.client.post("/v1/users/bob/import", content="\n".join(lines))
        assert response.status_code == 409
    await palate.say(kind="thumb", completion_id=answer["id"], value=1, user="ann")


@pytest.mark.parametrize("text", ["{", "[]", '{"type": "event"}', '{"type": "profile", "format": 9}', "\ud800"])
async def test_a_broken_import_is_refused(palate: Palate, text: str) -> None:
    content = text.encode(errors="surrogatepass")
    response = await palate.client.post("/v1/users/ann/import", content=content)
    assert response.status_code == 400


async def test_evidence_that_fits_nothing_never_counts_and_never_breaks(palate: Palate) -> None:
    await teach(palate, times=1)
    good = [json.loads(line) for line in (await palate.client.get("/v1/users/ann/export")).text.splitlines()][1]
    await palate.client.delete("/v1/users/ann")
    chosen = good["evidence"]["chosen"]
    changes: list[dict[str, Any]] = [
        {"kind": "thumb"},
        {"kind": "rating", "value": "many"},
        {"kind": "ranking"},
        {"kind": "thumb", "value": [], "evidence": {**good["evidence"], "judged": chosen}},
        {"evidence": {**good["evidence"], "chosen": {**chosen, "shape": [2, 2]}}},
        {"evidence": {**good["evidence"], "chosen": {"dtype": "float32", "shape": [1], "values": [1.0]}}},
        {"evidence": {"space": good["evidence"]["space"]}},
        {"evidence": {**good["evidence"], "rejected": {"dtype": "float32", "shape": [0, 4], "values": []}}},
        {"evidence": {"chosen": chosen}},
        {"evidence": None},
    ]
    lines = [{**good, **change, "id": f"fb-{number}"} for number, change in enumerate(changes)]
    content = "\n".join(json.dumps(line) for line in lines)
    response = await palate.client.post("/v1/users/ann/import", content=content)
    assert response.status_code == 200, response.text
    seen = await palate.see("/v1/users/ann")
    assert (seen["num_events"], seen["num_counting"]) == (len(changes), 0)
    await palate.ask()


async def test_after_erasure_the_person_is_unknown_again(palate: Palate) -> None:
    answer = await palate.ask()
    await teach(palate)
    index = palate.memory.people.index
    assert index is not None
    assert await index.size("default") == 1
    receipt = (await palate.client.delete("/v1/users/ann")).json()
    assert receipt["deleted"]
    assert (receipt["num_events"], receipt["num_completions"], receipt["num_posteriors"]) == (3, 1, 1)
    assert await index.size("default") == 0
    await palate.see("/v1/users/ann", 404)
    await palate.say(404, kind="thumb", completion_id=answer["id"], value=1)
    assert (await palate.ask())["palate"]["reason"] == "no_feedback"
    await teach(palate, times=1)  # later feedback starts anew
    assert (await palate.see("/v1/users/ann"))["num_events"] == 1
    again = (await palate.client.delete("/v1/users/nobody")).json()
    assert (again["deleted"], again["num_events"]) == (True, 0)


async def test_the_snapshot_of_tastes_goes_with_the_person(palate: Palate) -> None:
    await teach(palate)
    people = palate.memory.people
    assert people.index is not None
    assert people.in_service.current.snapshot is not None
    await people.index.save(people.in_service.current.snapshot)
    assert b"ann" in people.in_service.current.snapshot.read_bytes()
    await palate.client.delete("/v1/users/ann")
    # An index that was being built beside it may be saved now, without the person.
    snapshot = people.in_service.current.snapshot
    assert not snapshot.exists() or b"ann" not in snapshot.read_bytes()


async def test_questions_start_with_the_opening_ones_and_then_tell_most(palate: Palate) -> None:
    fresh = await palate.see("/v1/users/ann/questions?limit=20")
    prompts = [question["prompt"] for question in fresh["data"]]
    artifact = palate.memory.people.artifact
    assert prompts == [question.prompt for question in artifact.questions]
    assert all(0 < question["information"] <= 0.6932 for question in fresh["data"])
    await teach(palate)
    later = (await palate.see("/v1/users/ann/questions?limit=20"))["data"]
    gains = [question["information"] for question in later]
    assert gains == sorted(gains, reverse=True)
    first = await palate.see("/v1/users/ann/questions")
    assert (len(first["data"]), first["has_more"]) == (1, True)


async def test_neighbours_are_distances_and_names_only_for_who_may_know(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    _, reader = keys.create("default", frozenset({Scope.USERS_READ}), now=1.0)
    _, admin = keys.create("default", frozenset({Scope.ADMIN}), now=1.0)
    async with running(tmp_path, key=admin) as palate:
        await teach(palate, "ann")
        await teach(palate, "bob")
        await teach(palate, "eve", value=0)
        seen = await palate.see("/v1/users/ann/neighbors")
        assert [row["user"] for row in seen["data"]] == ["bob", "eve"]
        assert seen["data"][0]["distance"] < seen["data"][1]["distance"]
        assert (seen["num_people"], seen["has_more"]) == (3, False)
        palate.client.headers["Authorization"] = f"Bearer {reader}"
        seen = await palate.see("/v1/users/ann/neighbors?limit=1")
        assert [row["user"] for row in seen["data"]] == [None]
        assert seen["has_more"]


@pytest.mark.parametrize("user", ["a/b", "ann@example.org", "Ann Lee", "用户", "a%2Fb", "a?b#c"])
async def test_any_printable_name_is_a_person(palate: Palate, user: str) -> None:
    await palate.say(kind="comment", user=user, value="fine")
    path = f"/v1/users/{quote(user, safe='')}"
    assert (await palate.see(path))["id"] == user
    assert (await palate.client.delete(path)).json()["num_events"] == 1


async def test_a_name_nobody_can_have_is_refused(palate: Palate) -> None:
    await palate.see("/v1/users/a%7Fb", 400)
    await palate.see(f"/v1/users/{'x' * 300}", 400)

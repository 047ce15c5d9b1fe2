"""The operator's view: who may see it, and that it counts what happened."""

from __future__ import annotations

from pathlib import Path

from serve.keys import KeyFile, Scope
from tests.serve.api.people import running


async def test_it_counts_answers_and_names_the_artifact(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        await palate.say(kind="comparison", user="ann", prompt="hi", candidates=["a b", "there what"], value=1)
        answer = await palate.ask()
        await palate.say(kind="thumb", value=1, completion_id=answer["id"])
        seen = await palate.see("/v1/operator")
        assert seen["artifact"]["version"] == "scripted-1"
        assert "long_words" in seen["artifact"]["attributes"]
        assert (seen["num_requests"], seen["num_people"], seen["num_failed"]) == (1, 1, 0)
        assert {kind: count for kind, count in seen["feedback"].items() if count} == {"comparison": 1, "thumb": 1}
        assert sum(seen["answers"].values()) == 1
        assert seen["num_candidates"] == 4


async def test_it_needs_the_scope_admin(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        keys = KeyFile(tmp_path / "keys.json")
        every = frozenset(Scope) - {Scope.ADMIN}
        _, plain = keys.create("acme", every, now=1.0)
        _, admin = keys.create("acme", frozenset({Scope.ADMIN}), now=1.0)
        for key, status in ((plain, 403), (admin, 200), ("wrong", 401)):
            response = await palate.client.get("/v1/operator", headers={"Authorization": f"Bearer {key}"})
            assert response.status_code == status

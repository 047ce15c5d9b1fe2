"""`palate keys`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.jobs.keys import keys
from serve.keys import KeyFile, Scope


def test_a_key_is_made_listed_and_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    runner = CliRunner()
    made = runner.invoke(keys, ["create", "--tenant", "acme", "--scope", "users:read", "--name", "crm"])
    text = made.stdout.strip()
    principal = KeyFile(tmp_path / "keys.json").principal(text)
    assert principal is not None
    assert (principal.tenant, principal.scopes) == ("acme", frozenset({Scope.USERS_READ}))
    listed = runner.invoke(keys, ["list", "--json"])
    (row,) = json.loads(listed.stdout)
    assert (row["tenant"], row["scopes"], row["name"], row["revoked"]) == ("acme", ["users:read"], "crm", None)
    assert text not in listed.stdout
    assert runner.invoke(keys, ["revoke", row["id"]]).exit_code == 0
    assert "revoked" in runner.invoke(keys, ["list"]).stdout
    assert KeyFile(tmp_path / "keys.json").principal(text) is None
    assert runner.invoke(keys, ["create", "--tenant", "a b"]).exit_code == 1

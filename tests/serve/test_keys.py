"""Keys: what is kept, who is admitted, what each may do."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from serve.errors import ConfigurationError, NotFound
from serve.keys import Doorkeeper, KeyFile, Principal, Scope, required_scope

APP = frozenset({Scope.INFER, Scope.FEEDBACK})


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def test_a_key_admits_its_tenant_with_its_scopes_and_its_secret_is_not_kept(file: KeyFile) -> None:
    key, text = file.create("acme", APP, now=5.0, name="the app")
    assert file.principal(text) == Principal("acme", APP, key.id)
    kept = file.path.read_text()
    assert text not in kept
    assert text.rsplit("-", 1)[1] not in kept
    assert os.stat(file.path).st_mode & 0o077 == 0


@pytest.mark.parametrize("spoil", [str.upper, lambda text: text + "x", lambda text: text[:-1], lambda _: "pk-a-b"])
def test_a_wrong_secret_admits_nobody(file: KeyFile, spoil: object) -> None:
    _, text = file.create("acme", APP, now=5.0)
    assert callable(spoil)
    assert file.principal(spoil(text)) is None


def test_a_revoked_key_dies_at_once_for_other_processes_too(file: KeyFile) -> None:
    key, text = file.create("acme", APP, now=5.0)
    replica = KeyFile(file.path)
    assert replica.principal(text) is not None
    file.revoke(key.id, now=9.0)
    file.revoke(key.id, now=10.0)
    assert replica.principal(text) is None
    assert replica.keys()[key.id].revoked_at == 9.0
    with pytest.raises(NotFound, match="no key"):
        file.revoke("unknown", now=9.0)


def test_keys_made_at_the_same_time_are_all_kept(file: KeyFile) -> None:
    def create() -> None:
        for _ in range(5):
            KeyFile(file.path).create("acme", APP, now=1.0)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.keys()) == 20


@pytest.mark.parametrize(("tenant", "scopes", "message"), [("a/b", APP, "tenant"), ("a", frozenset[Scope](), "scope")])
def test_keys_that_make_no_sense_are_not_made(
    file: KeyFile, tenant: str, scopes: frozenset[Scope], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        file.create(tenant, scopes, now=1.0)


@pytest.mark.parametrize("content", ["{", "{}", '{"keys": [{"id": "x"}]}', "[]"])
def test_a_damaged_file_opens_no_door(file: KeyFile, content: str) -> None:
    file.path.write_text(content)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Doorkeeper(None, file).admit("anything")


def test_a_file_that_vanishes_opens_no_door_also_not_after_a_restart(file: KeyFile) -> None:
    _, text = file.create("acme", APP, now=1.0)
    running = Doorkeeper(None, KeyFile(file.path))
    assert running.admit(text) is not None
    away = file.path.rename(file.path.with_suffix(".away"))
    for doorkeeper in (running, Doorkeeper(None, KeyFile(file.path))):
        for given in (None, "wrong", text):
            with pytest.raises(ConfigurationError, match="are gone"):
                doorkeeper.admit(given)
    away.rename(file.path)
    assert running.admit(text) is not None
    assert running.admit(None) is None


def test_a_folder_that_vanishes_opens_no_door_of_a_running_server(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    _, text = KeyFile(folder / "keys.json").create("acme", APP, now=1.0)
    running = Doorkeeper(None, KeyFile(folder / "keys.json"))
    assert running.admit(text) is not None
    folder.rename(tmp_path / "unmounted")
    with pytest.raises(ConfigurationError, match="are gone"):
        running.admit(None)


def test_a_link_to_keys_that_are_not_there_opens_no_door(file: KeyFile, tmp_path: Path) -> None:
    file.path.symlink_to(tmp_path / "secret" / "keys.json")
    with pytest.raises(ConfigurationError, match="are gone"):
        Doorkeeper(None, file).admit(None)


def test_new_keys_take_the_place_of_lost_ones(file: KeyFile) -> None:
    _, old = file.create("acme", APP, now=1.0)
    file.path.unlink()
    _, text = KeyFile(file.path).create("acme", APP, now=2.0)
    doorkeeper = Doorkeeper(None, KeyFile(file.path))
    assert doorkeeper.admit(text) is not None
    assert doorkeeper.admit(old) is None


def test_asking_for_a_key_where_none_was_made_shuts_no_door(file: KeyFile) -> None:
    with pytest.raises(NotFound):
        file.revoke("unknown", now=1.0)
    assert Doorkeeper(None, KeyFile(file.path)).admit(None) == Principal()


def test_a_scope_nobody_knows_is_damage(file: KeyFile) -> None:
    file.create("acme", APP, now=1.0)
    rows = json.loads(file.path.read_text())
    rows["keys"][0]["scopes"] = ["everything"]
    file.path.write_text(json.dumps(rows))
    with pytest.raises(ConfigurationError):
        file.keys()


def test_without_keys_the_door_is_open_and_the_last_revoked_one_keeps_it_shut(file: KeyFile) -> None:
    doorkeeper = Doorkeeper(None, file)
    assert doorkeeper.admit(None) == Principal()
    key, text = file.create("acme", APP, now=1.0)
    assert doorkeeper.admit(None) is None
    assert doorkeeper.admit("wrong") is None
    admitted = doorkeeper.admit(text)
    assert admitted is not None
    assert (admitted.tenant, admitted.may(Scope.INFER), admitted.may(Scope.USERS_READ)) == ("acme", True, False)
    file.revoke(key.id, now=2.0)
    assert doorkeeper.admit(None) is None


def test_the_environments_key_is_the_default_tenants_and_may_everything(file: KeyFile) -> None:
    doorkeeper = Doorkeeper("right", file)
    admitted = doorkeeper.admit("right")
    assert admitted is not None
    assert admitted.tenant == "default"
    assert all(admitted.may(scope) for scope in Scope)
    assert doorkeeper.admit("wrong") is None
    _, text = file.create("acme", frozenset({Scope.ADMIN}), now=1.0)
    other = doorkeeper.admit(text)
    assert other is not None
    assert (other.tenant, other.may(Scope.USERS_WRITE)) == ("acme", True)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/chat/completions", Scope.INFER),
        ("POST", "/v1/rerank", Scope.INFER),
        ("GET", "/v1/models", None),
        ("POST", "/v1/feedback", Scope.FEEDBACK),
        ("DELETE", "/v1/feedback/x", Scope.FEEDBACK),
        ("GET", "/v1/feedback", Scope.USERS_READ),
        ("GET", "/v1/users/ann/export", Scope.USERS_READ),
        ("PATCH", "/v1/users/ann", Scope.USERS_WRITE),
        ("DELETE", "/v1/users/ann", Scope.USERS_WRITE),
        ("POST", "/v1/users/ann/import", Scope.USERS_WRITE),
        ("POST", "/v1/anything-new", Scope.INFER),
    ],
)
def test_what_each_request_needs(method: str, path: str, scope: Scope | None) -> None:
    assert required_scope(method, path) == scope

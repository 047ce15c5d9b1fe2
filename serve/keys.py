"""API keys: whose they are and what they may do.

A key is `pk-ID-SECRET`; of the secret only a SHA-256 digest is kept, which is enough for 256 random bits. They live in
one JSON file under PALATE_HOME, replaced whole, and read again when it changes, so that a revoked key dies at once on
every replica that shares the folder. The lock beside it is never removed: where it lies alone, there were keys and they
are gone. Knows no HTTP.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from serve.errors import ConfigurationError, NotFound
from user_store.validation import check_label, check_tenant

DEFAULT_TENANT = "default"
PREFIX = "pk"


class Scope(StrEnum):
    """What a key may do."""

    INFER = "infer"
    FEEDBACK = "feedback"
    USERS_READ = "users:read"
    USERS_WRITE = "users:write"
    ADMIN = "admin"  # everything, and to see other people's ids


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request: a tenant, with what its key allows."""

    tenant: str = DEFAULT_TENANT
    scopes: frozenset[Scope] = frozenset(Scope)
    key_id: str = ""

    def may(self, scope: Scope) -> bool:
        """Whether the key has a scope; admin has all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is kept."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    digest: str
    created_at: float
    name: str = ""
    revoked_at: float | None = None


class KeyFile:
    """All keys of one installation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_suffix(".lock")
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def keys(self) -> dict[str, ApiKey]:
        """Return every key by id, revoked ones included; reads the file only when it changed.

        Raises ConfigurationError if the file is damaged or gone: an unreadable list must not open the server.
        """
        had_keys = self._keys or self._lock.exists() or self.path.is_symlink()  # as to a Secret that lacks them
        if self._keys_if_there() is None and had_keys:
            raise ConfigurationError(
                f"The keys in {self.path} are gone. Restore the file, or make a new key with `palate keys create`; "
                f"for a server without keys remove {self._lock.name} too and restart it."
            )
        return self._keys

    def _keys_if_there(self) -> dict[str, ApiKey] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._keys, self._stamp = _read(self.path), stamp
        return self._keys

    def create(self, tenant: str, scopes: frozenset[Scope], *, now: float, name: str = "") -> tuple[ApiKey, str]:
        """Make a key; return it with the text to hand out, which is nowhere kept. ValueError for a bad tenant."""
        check_tenant(tenant)
        if name:
            check_label("name", name)
        if not scopes:
            raise ValueError("a key needs at least one scope")
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        text = f"{PREFIX}-{key_id}-{secret}"
        key = ApiKey(key_id, tenant, tuple(sorted(scopes)), _digest(text).hex(), now, name)
        with self._locked():
            self._write({**(self._keys_if_there() or {}), key_id: key})
        return key, text

    def revoke(self, key_id: str, *, now: float) -> ApiKey:
        """Revoke a key for good. NotFound if there is none."""
        if key_id not in self.keys():  # no key is ever removed, so this stays true of one that is there
            raise NotFound(f"There is no key '{key_id}'; `palate keys list` shows them.")
        with self._locked():
            keys = self.keys()
            revoked = replace(keys[key_id], revoked_at=keys[key_id].revoked_at or now)
            self._write({**keys, key_id: revoked})
        return revoked

    def principal(self, text: str) -> Principal | None:
        """Return whose key this is; None for an unknown or revoked one. Takes the same time for every wrong secret."""
        parts = text.split("-", 2)
        key = self.keys().get(parts[1]) if len(parts) == 3 and parts[0] == PREFIX else None
        known = bytes.fromhex(key.digest) if key else bytes(32)
        is_right = hmac.compare_digest(_digest(text), known)
        if key is None or not is_right or key.revoked_at is not None:
            return None
        return Principal(key.tenant, frozenset(Scope(scope) for scope in key.scopes), key.id)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from writing at the same time."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, keys: dict[str, ApiKey]) -> None:
        fresh = self.path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"keys": [asdict(key) for key in keys.values()]}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)


def _read(path: Path) -> dict[str, ApiKey]:
    try:
        rows = json.loads(path.read_text())["keys"]
        keys = [ApiKey(**{**row, "scopes": tuple(Scope(scope) for scope in row["scopes"])}) for row in rows]
        for key in keys:
            check_tenant(key.tenant)
            bytes.fromhex(key.digest)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"The keys in {path} cannot be read: {error}. Restore the file.") from error
    return {key.id: key for key in keys}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()


class Doorkeeper:
    """Decides who a request comes from: the keys on file, and `PALATE_API_KEY` as tenant `default` with all scopes.

    Where no key was ever made the server is open, and everybody is tenant `default`.
    """

    def __init__(self, api_key: str | None = None, file: KeyFile | None = None) -> None:
        self._digest = _digest(api_key) if api_key else None
        self._file = file

    @property
    def is_open(self) -> bool:
        """Whether no key exists at all. A revoked key keeps the door shut."""
        return self._digest is None and not (self._file and self._file.keys())

    def admit(self, text: str | None) -> Principal | None:
        """Return who sent this key; None if nobody may come in with it."""
        if self.is_open:
            return Principal()
        if text is None:
            return None
        if self._digest is not None and hmac.compare_digest(_digest(text), self._digest):
            return Principal()
        return self._file.principal(text) if self._file else None


def required_scope(method: str, path: str) -> Scope | None:
    """Say what a request under `/v1/` needs; None: any valid key."""
    if path.startswith("/v1/feedback"):
        return Scope.USERS_READ if method in ("GET", "HEAD") else Scope.FEEDBACK
    if path.startswith("/v1/operator"):
        return Scope.ADMIN
    if path.startswith("/v1/users"):
        return Scope.USERS_READ if method in ("GET", "HEAD") else Scope.USERS_WRITE
    return None if path.startswith("/v1/models") else Scope.INFER

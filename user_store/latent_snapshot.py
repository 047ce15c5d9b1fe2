"""Latent indexes on disk: one file, written whole or not at all, trusted only if its checksum holds.

Anything wrong with a file (missing, cut short, altered, of another population or format) reads as None, and the index
is built from the store instead. Holds user ids and tastes: readable by its owner alone.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import faiss
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from user_store.latent_shard import Shard

_MAGIC = b"palate-latents-1\n"
_HEAD = len(_MAGIC) + 32


def save_snapshot(path: Path, shards: Mapping[str, Shard], population: str) -> None:
    """Write all shards next to `path` and move them there. OSError if the disk will not have them."""
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    tenants = []
    for number, (tenant, shard) in enumerate(sorted(shards.items())):
        tenants.append({"tenant": tenant, "dim": shard.dim, "trained_size": shard.trained_size})
        arrays[f"{number}.matrix"] = np.ascontiguousarray(shard.vectors)
        arrays[f"{number}.users"] = _as_bytes(shard.users)
        if shard.ivf is not None:
            arrays[f"{number}.lists"] = faiss.serialize_index(shard.ivf)
    arrays["head"] = _as_bytes({"population": population, "tenants": tenants})
    data = save(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(data).digest())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_snapshot(path: Path, population: str) -> dict[str, Shard] | None:
    """Read all shards, or None if the file is not exactly what was written for this population."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    data = memoryview(content)[_HEAD:]
    # FAISS must never see altered bytes: it trusts the sizes it reads.
    if not content.startswith(_MAGIC) or hashlib.sha256(data).digest() != content[len(_MAGIC) : _HEAD]:
        return None
    try:
        return _shards(load(bytes(data)), population)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None


def _shards(arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]], population: str) -> dict[str, Shard]:
    head = json.loads(arrays["head"].tobytes())
    if head["population"] != population:
        raise ValueError("the snapshot was made for another population")
    shards: dict[str, Shard] = {}
    for number, entry in enumerate(head["tenants"]):
        users = json.loads(arrays[f"{number}.users"].tobytes())
        matrix = arrays[f"{number}.matrix"].astype(np.float32)
        if len(users) != len(matrix):
            raise ValueError("the snapshot is inconsistent")
        rows = {user: row for row, user in enumerate(users)}
        shard = Shard(entry["dim"], users, rows, matrix, trained_size=entry["trained_size"])
        if f"{number}.lists" in arrays:
            shard.ivf = faiss.deserialize_index(arrays[f"{number}.lists"].astype(np.uint8))
        shards[entry["tenant"]] = shard
    return shards


def _as_bytes(value: object) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return np.frombuffer(json.dumps(value).encode(), np.uint8).copy()

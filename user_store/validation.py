"""Bounds of everything a store accepts: identifiers, texts, JSON values and arrays.

Every function raises ValueError with a message that says what to do. Knows no record types and no storage.
"""

import json
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

MAX_USER_CHARS = 256
MAX_KEY_CHARS = 256
MAX_TEXT_CHARS = 32_768
MAX_METADATA_BYTES = 16_384
MAX_PAYLOAD_BYTES = 1_048_576
MAX_POSTERIOR_BYTES = 16_777_216
MAX_EVIDENCE_BYTES = 1_048_576
MAX_CANDIDATES = 256
MAX_COMPLETION_IDS = 64

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
Array: TypeAlias = NDArray[np.generic]
Arrays: TypeAlias = Mapping[str, Array]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ARRAY_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}")
# Lone surrogates cannot be stored as UTF-8; control characters would forge log lines.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DTYPES = frozenset(np.dtype(name) for name in ("float32", "float64", "int32", "int64", "uint8", "bool"))


def check_tenant(tenant: str) -> None:
    """Accept 1-64 letters, digits, dots, dashes and underscores."""
    if not _TENANT.fullmatch(tenant):
        raise ValueError("tenant must be 1 to 64 letters, digits, '.', '-' or '_' and start with a letter or digit")


def check_id(name: str, value: str) -> None:
    """Accept the identifiers of events and completions."""
    if not _ID.fullmatch(value):
        raise ValueError(f"{name} must be 1 to 128 letters, digits, '.', '_', ':' or '-'; start with a letter or digit")


def check_label(name: str, value: str, max_chars: int = MAX_KEY_CHARS) -> None:
    """Accept any printable, well-formed string of bounded length: user names and keys that clients choose."""
    if not 1 <= len(value) <= max_chars:
        raise ValueError(f"{name} must have 1 to {max_chars} characters, not {len(value)}")
    if _UNPRINTABLE.search(value):
        raise ValueError(f"{name} must not contain control characters or unpaired surrogates")


def check_text(name: str, value: str, max_chars: int = MAX_TEXT_CHARS) -> None:
    """Accept free text up to a length."""
    if len(value) > max_chars:
        raise ValueError(f"{name} must have at most {max_chars} characters, not {len(value)}; shorten it")


def check_time(name: str, value: float) -> None:
    """Accept seconds since the epoch."""
    if not (math.isfinite(value) and 0 <= value < 1e11):
        raise ValueError(f"{name} must be seconds since 1970, not {value!r}")


def check_json(name: str, value: object, max_bytes: int) -> None:
    """Accept what JSON can say (no NaN or infinity) within a size."""
    if value is None or value == {}:
        return
    try:
        size = len(json.dumps(value, allow_nan=False))
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply; flatten it") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be plain JSON: {error}") from None
    if size > max_bytes:
        raise ValueError(f"{name} must take at most {max_bytes} bytes as JSON, not {size}; shorten it")


def frozen_array(name: str, value: Array) -> Array:
    """Copy an array, read-only and contiguous; only plain numbers, all finite."""
    if value.dtype not in _DTYPES:
        raise ValueError(f"{name} has dtype {value.dtype}; use one of {', '.join(sorted(map(str, _DTYPES)))}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{name} must be finite; drop the rows with NaN or infinity first")
    copy = np.array(value, order="C")
    copy.flags.writeable = False
    return copy


def frozen_arrays(name: str, value: Arrays, max_bytes: int) -> Arrays:
    """Copy named arrays, read-only; order of names does not matter."""
    for key in value:
        if not _ARRAY_NAME.fullmatch(key):
            raise ValueError(f"{name} has an array named {key!r}; use a lower-case word such as 'chosen'")
    arrays = {key: frozen_array(f"{name}[{key!r}]", value[key]) for key in sorted(value)}
    size = sum(array.nbytes for array in arrays.values())
    if size > max_bytes:
        raise ValueError(f"{name} must take at most {max_bytes} bytes, not {size}; store fewer candidates")
    return MappingProxyType(arrays)

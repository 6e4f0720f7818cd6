"""Strict canonical encoding: a subset of RFC 8785 JSON in which every value has exactly one spelling.

Values are integers 0..2^53-1, strings, arrays and objects with ASCII keys; no floats, null or booleans.
`decode` accepts bytes only if encoding what they mean gives the same bytes again, which refuses duplicate keys,
spaces, other escapes, other number spellings and other key orders all at once.

Pure: no IO.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from .errors import CodecInvalid

Json: TypeAlias = "int | str | Sequence[Json] | Mapping[str, Json]"
"""What can be encoded; decoding gives int, str, list and dict only."""

MAX_BYTES = 16384
"""The longest entry."""
MAX_INT = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""
MAX_DEPTH = 32
"""How deeply arrays and objects may nest."""

_write = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False).encode


def encode(value: Json) -> bytes:
    """The canonical bytes of a value.

    Raises:
        CodecInvalid: the value contains something that has no canonical form.
    """
    _check(value, MAX_DEPTH)
    try:
        return _write(value).encode()
    except UnicodeEncodeError as exc:
        raise CodecInvalid("a string holds a lone surrogate, which UTF-8 cannot carry; remove it") from exc


def decode(data: bytes, limit: int = MAX_BYTES) -> Json:
    """The value of canonical bytes.

    Raises:
        CodecInvalid: longer than `limit`, not JSON, outside the subset, or not in canonical form.
    """
    if len(data) > limit:
        raise CodecInvalid(f"the value is {len(data)} bytes, at most {limit} are allowed")
    try:
        value: Json = json.loads(data.decode())
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CodecInvalid(f"not JSON: {exc or 'nested too deeply'}") from exc
    if encode(value) != data:
        raise CodecInvalid("not canonical: the value has another spelling (key order, spaces, escapes, duplicates)")
    return value


def _check(value: object, depth: int) -> None:
    kind = type(value)
    if kind is str:
        return
    if kind is int:
        if not 0 <= value <= MAX_INT:  # type: ignore[operator]
            raise CodecInvalid(f"integer {str(value)[:24]} is outside 0..2^53-1")
    elif depth == 0:
        raise CodecInvalid(f"nested more than {MAX_DEPTH} deep")
    elif kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not key.isascii():
                raise CodecInvalid(f"key {key!r} is not an ASCII string")
            if type(item) is not str:
                _check(item, depth - 1)
    elif kind is list or issubclass(kind, tuple):
        for item in value:  # type: ignore[attr-defined]
            if type(item) is not str:
                _check(item, depth - 1)
    else:
        raise CodecInvalid(f"a {kind.__name__} has no canonical form; use integers, strings, arrays and objects")


def b64encode(data: bytes) -> str:
    """Standard padded base64."""
    return base64.b64encode(data).decode()


def b64decode(text: str) -> bytes:
    """The bytes of standard padded base64 in its only canonical spelling.

    Raises:
        CodecInvalid: other alphabet, padding, or non-zero trailing bits.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise CodecInvalid(f"not base64: {exc}") from exc
    if b64encode(data) != text:
        raise CodecInvalid("base64 with non-zero trailing bits")
    return data


def decimal(text: str) -> int:
    """The integer of a decimal without sign, leading zeros, separators or foreign digits.

    Raises:
        CodecInvalid: any other spelling, or above 2^53-1.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 16 or (text[0] == "0" and text != "0"):
        raise CodecInvalid(f"{text[:24]!r} is not a plain decimal number")
    number = int(text)
    if number > MAX_INT:
        raise CodecInvalid(f"{text} is above 2^53-1")
    return number

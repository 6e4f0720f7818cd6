"""Encodes and decodes updates with the codec of the run.

Format, little-endian: a 32-byte header (`FRGU`, version, codec, flags 0, chunk or group, k, parameters P, values n),
then the body of the codec's family: `dense` (f32, f16), `grouped` (int8, int4), `topk`.
One update has one encoding length, known from the spec alone, so a wrong size is refused before anything is allocated.

Every codec is used with error feedback: what was not sent of a change stays in the member's residual. For f32 that is
exactly nothing; for f16, int8 and int4 it is what was rounded off, which would be lost round after round where it is
below half a step (an int4 step is a seventh of its group's largest value), and costs nothing to keep as members have a
residual for the rounds they miss anyway; for topk it is most of the change.

Shapes: P parameters.

Pure: bytes and tensors only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from p2p_llm_forge.codec import dense, grouped, topk
from p2p_llm_forge.codec.update import HEADER_BYTES, U8, Update, header
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.settings import CodecSpec


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What the codecs of one kind of body do."""

    body_bytes: Callable[[CodecSpec, int], int]
    encode: Callable[[Tensor, CodecSpec], tuple[bytes, Update]]
    decode: Callable[[U8, CodecSpec, int], Update]


_DENSE = _Family(body_bytes=dense.body_bytes, encode=dense.encode, decode=dense.decode)
_GROUPED = _Family(body_bytes=grouped.body_bytes, encode=grouped.encode, decode=grouped.decode)
_TOPK = _Family(body_bytes=topk.body_bytes, encode=topk.encode, decode=topk.decode)
_FAMILIES = {"f32": _DENSE, "f16": _DENSE, "int8": _GROUPED, "int4": _GROUPED, "topk": _TOPK}


def _header(spec: CodecSpec, parameters: int) -> bytes:
    chunk, k, values = 0, 0, parameters
    if spec.kind == "topk":
        chunk, k, values = spec.chunk, spec.k, topk.count(spec, parameters)
    elif spec.kind in {"int8", "int4"}:
        chunk = spec.group
    return header(spec.kind, chunk=chunk, k=k, parameters=parameters, values=values)


def encoded_bytes(spec: CodecSpec, parameters: int) -> int:
    """The length of every valid encoding of an update of this many parameters."""
    return HEADER_BYTES + _FAMILIES[spec.kind].body_bytes(spec, parameters)


def encode(update_P: Tensor, spec: CodecSpec) -> tuple[bytes, Update]:
    """Encode an fp32 CPU vector; also returns what a receiver will decode, for error feedback.

    Raises:
        UpdateError: a value is not finite (training diverged), or outside the range of the codec.
    """
    if not is_finite(update_P):
        raise UpdateError("own update: not finite, the local training diverged; lower training.learning_rate")
    body, update = _FAMILIES[spec.kind].encode(update_P, spec)
    return _header(spec, update_P.numel()) + body, update


def decode(data: bytes, spec: CodecSpec, parameters: int) -> Update:
    """Decode strictly; whatever `encode` could not have written is refused.

    Raises:
        UpdateError: truncated, trailing bytes, another header, not finite, not canonical.
    """
    expected = encoded_bytes(spec, parameters)
    if len(data) != expected:
        fault = "truncated" if len(data) < expected else "oversize or trailing bytes"
        raise UpdateError(f"update: {fault}: {len(data)} bytes, expected {expected}")
    head = _header(spec, parameters)
    if data[: len(head)] != head:
        raise UpdateError(f"update: wrong header {data[: len(head)].hex()}, expected {head.hex()}")
    return _FAMILIES[spec.kind].decode(np.frombuffer(data, dtype=np.uint8, offset=len(head)), spec, parameters)

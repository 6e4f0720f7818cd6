"""What travels between stages: activations, their gradients and tokens, in one strict binary format.

Format, little-endian: a header (`FRGA`, version, kind, number of dimensions, 0, then each dimension as u32) and the
values in row-major order: f32 as they are, bf16 rounded to the nearest, tokens as i32, and int8 in groups of 64 along
the row-major order as `codec.grouped` lays them out, 1.0625 bytes a value.
A receiver knows kind and shape of what it asked for, so anything else is refused by its length and header before a
value is looked at. What is not finite is neither written nor taken.

Shapes: N values in all.

Pure: bytes and tensors only.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from p2p_llm_forge.codec import grouped
from p2p_llm_forge.errors import ActivationError, UpdateError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.settings import CodecSpec

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

Kind = Literal["int8", "bf16", "f32", "tokens"]

VERSION = 1
MOST_DIMENSIONS = 4
NO_TARGET = -1
"""In place of a token: there is nothing to predict here."""
_MAGIC = b"FRGA"
_HEAD = struct.Struct("<4sBBBB")
_CODES: dict[Kind, int] = {"f32": 1, "bf16": 2, "int8": 3, "tokens": 4}
_BYTES: dict[Kind, int] = {"f32": 4, "bf16": 2, "tokens": 4}
_GROUPS = CodecSpec(kind="int8", group=64)
_MOST_TOKEN = (1 << 31) - 1


def _header(kind: Kind, shape: Sequence[int]) -> bytes:
    return _HEAD.pack(_MAGIC, VERSION, _CODES[kind], len(shape), 0) + struct.pack(f"<{len(shape)}I", *shape)


def encoded_bytes(kind: Kind, shape: Sequence[int]) -> int:
    """The length of every valid encoding of this kind and shape."""
    values = math.prod(shape)
    body = grouped.body_bytes(_GROUPS, values) if kind == "int8" else _BYTES[kind] * values
    return _HEAD.size + 4 * len(shape) + body


def encode(x: Tensor, kind: Kind) -> bytes:
    """The bytes of an fp32 CPU tensor, or for kind tokens of an int64 one.

    Raises:
        ActivationError: a value is not finite, or beyond the range of the kind.
    """
    assert 1 <= x.ndim <= MOST_DIMENSIONS
    flat_N = x.detach().contiguous().reshape(-1)
    head = _header(kind, x.shape)
    if kind == "tokens":
        if flat_N.numel() and not -_MOST_TOKEN <= int(flat_N.min()) <= int(flat_N.max()) <= _MOST_TOKEN:
            raise ActivationError(f"own tokens: outside -{_MOST_TOKEN} … {_MOST_TOKEN}")
        return head + flat_N.numpy().astype("<i4").tobytes()
    if not is_finite(flat_N):
        raise ActivationError("own activations: not finite, the training diverged; lower training.learning_rate")
    if kind == "int8":
        return head + grouped.pack(*grouped.quantise(flat_N, _GROUPS), _GROUPS)
    if kind == "f32":
        return head + flat_N.numpy().astype("<f4", copy=False).tobytes()
    rounded_N = flat_N.to(torch.bfloat16)
    if not is_finite(rounded_N.float()):
        raise ActivationError("own activations: a value is outside the range of bf16; set pipeline.activations: f32")
    return head + rounded_N.view(torch.int16).numpy().astype("<i2", copy=False).tobytes()


def decode(data: Buffer, kind: Kind, shape: Sequence[int], what: str) -> Tensor:
    """The fp32 tensor of this shape, or for kind tokens the int64 one; the bytes may go afterwards.

    Raises:
        ActivationError: naming `what`: another kind, shape or length; values that are not finite or not canonical.
    """
    raw = np.frombuffer(memoryview(data), dtype=np.uint8)
    expected, head = encoded_bytes(kind, shape), _header(kind, shape)
    if raw.nbytes < len(head) or raw[: len(head)].tobytes() != head:
        wanted = f"{kind} {list(shape)}"
        raise ActivationError(f"{what}: got {described(raw[:64].tobytes())}, wanted {wanted}")
    if raw.nbytes != expected:
        fault = "truncated" if raw.nbytes < expected else "oversize"
        raise ActivationError(f"{what}: {fault}: got {raw.nbytes} bytes, wanted {expected}")
    body = raw[len(head) :]
    if kind == "tokens":
        return torch.from_numpy(body.view("<i4").astype(np.int64)).view(*shape)
    if kind == "int8":
        try:
            values_N = grouped.decode(body, _GROUPS, math.prod(shape)).values
        except UpdateError as exc:
            raise ActivationError(exc.message.replace("update", what, 1)) from exc
    elif kind == "f32":
        values_N = torch.from_numpy(body.view("<f4").astype(np.float32))
    else:  # the upper half of an fp32 value
        values_N = torch.from_numpy((body.view("<u2").astype(np.uint32) << 16).view(np.float32))
    if not is_finite(values_N):
        raise ActivationError(f"{what}: holds values that are not finite")
    return values_N.view(*shape)


def described(head: bytes) -> str:
    """What the first bytes of an encoding say it is."""
    if len(head) < _HEAD.size:
        return f"{len(head)} bytes"
    magic, version, code, dimensions, zero = _HEAD.unpack_from(head)
    kinds = {code: kind for kind, code in _CODES.items()}
    whole = len(head) >= _HEAD.size + 4 * dimensions and 1 <= dimensions <= MOST_DIMENSIONS
    if magic != _MAGIC or version != VERSION or zero or code not in kinds or not whole:
        return f"an unknown header {head[: _HEAD.size].hex()}"
    return f"{kinds[code]} {list(struct.unpack_from(f'<{dimensions}I', head, _HEAD.size))}"

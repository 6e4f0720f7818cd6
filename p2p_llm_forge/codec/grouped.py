"""int8 and int4: groups of values as small integers that share one fp32 scale.

Body, little-endian: ceil(P / group) fp32 scales (largest magnitude of the group / 127 or / 7), then P steps in two's
complement: int8 a byte each, -127…127; int4 two to a byte, the first in the low half, -7…7, a last half byte left
over is 0. A value is step × scale, one fp32 multiplication.
Canonical: a scale is 0, and then all its steps are, or it is a normal number whose largest step is 127 or 7.

Shapes: P parameters, G groups.

Pure: bytes and tensors only.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2p_llm_forge.codec.update import U8, Update, check_finite
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import CodecSpec

_LARGEST = {"int8": 127, "int4": 7}
_TINY = np.finfo(np.float32).tiny  # below are subnormal numbers, which some processors flush to 0

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
T = TypeVar("T", bound=np.generic)


def body_bytes(spec: CodecSpec, parameters: int) -> int:
    """Length of everything after the header."""
    return 4 * -(-parameters // spec.group) + _step_bytes(spec, parameters)


def _step_bytes(spec: CodecSpec, parameters: int) -> int:
    return parameters if spec.kind == "int8" else (parameters + 1) // 2


def encode(update_P: Tensor, spec: CodecSpec) -> tuple[bytes, Update]:
    """The body, and what a receiver decodes."""
    scales_G, steps_P = quantise(update_P, spec)
    return pack(scales_G, steps_P, spec), _update(scales_G, steps_P, spec)


def quantise(update_P: Tensor, spec: CodecSpec) -> tuple[F32, I8]:
    """Scales and steps nearest to finite values; halves go to the even step."""
    largest = _LARGEST[spec.kind]
    rows = _rows(update_P.numpy(), spec.group)
    scales_G = np.abs(rows).max(axis=1) / np.float32(largest)
    scales_G[scales_G < _TINY] = 0.0
    with np.errstate(over="ignore"):
        over = np.isinf(scales_G * np.float32(largest))
    scales_G[over] = np.nextafter(scales_G[over], np.float32(0.0))
    steps = np.rint(rows / np.where(scales_G > 0.0, scales_G, np.float32(1.0))[:, None])
    steps[scales_G == 0.0] = 0.0
    return scales_G, steps.clip(-largest, largest).astype(np.int8).reshape(-1)[: update_P.numel()]


def pack(scales_G: F32, steps_P: I8, spec: CodecSpec) -> bytes:
    """The body of these scales and steps."""
    packed: U8 = steps_P.view(np.uint8)
    if spec.kind == "int4":
        halves = np.pad(packed & np.uint8(0xF), (0, len(steps_P) % 2))
        packed = halves[0::2] | (halves[1::2] << 4)
    return scales_G.astype("<f4").tobytes() + packed.tobytes()


def unpack(body: U8, spec: CodecSpec, parameters: int) -> tuple[F32, I8]:
    """The scales and steps of a body, which `pack` makes into the same bytes.

    Raises:
        UpdateError: not finite, not canonical.
    """
    packed = body[len(body) - _step_bytes(spec, parameters) :]
    scales_G = body[: len(body) - len(packed)].view("<f4").astype(np.float32)
    if spec.kind == "int8":
        steps_P = packed.view(np.int8)
    else:
        halves = np.stack([packed & 0xF, packed >> 4], axis=1).reshape(-1)
        if halves[parameters:].any():
            raise UpdateError("update: non-canonical steps, expected zero padding bits")
        steps_P = (halves[:parameters] ^ 8).astype(np.int8) - np.int8(8)
    _check_canonical(scales_G, steps_P, spec)
    return scales_G, steps_P


def _check_canonical(scales_G: F32, steps_P: I8, spec: CodecSpec) -> None:
    largest = _LARGEST[spec.kind]
    check_finite(scales_G)
    if np.signbit(scales_G).any() or ((scales_G > 0.0) & (scales_G < _TINY)).any():
        raise UpdateError("update: non-canonical scales, expected zero or a positive normal number")
    with np.errstate(over="ignore"):
        check_finite(scales_G * np.float32(largest))
    if (steps_P < -largest).any():
        raise UpdateError(f"update: non-canonical steps, expected at least {-largest}, found {-largest - 1}")
    peaks_G = np.abs(_rows(steps_P, spec.group)).max(axis=1)
    if (peaks_G != np.where(scales_G > 0.0, largest, 0)).any():
        raise UpdateError(f"update: non-canonical scales, expected the largest step of a group to be {largest}")


def decode(body: U8, spec: CodecSpec, parameters: int) -> Update:
    """Raises UpdateError: not finite, not canonical."""
    return _update(*unpack(body, spec, parameters), spec)


def _update(scales_G: F32, steps_P: I8, spec: CodecSpec) -> Update:
    values = (_rows(steps_P, spec.group).astype(np.float32) * scales_G[:, None]).reshape(-1)[: len(steps_P)]
    return Update(parameters=len(steps_P), values=torch.from_numpy(values), indices=None)


def _rows(values_P: npt.NDArray[T], group: int) -> npt.NDArray[T]:
    """[P] → [G, group], the last group filled up with zeros."""
    whole = np.zeros((-(-len(values_P) // group), group), dtype=values_P.dtype)
    whole.reshape(-1)[: len(values_P)] = values_P
    return whole

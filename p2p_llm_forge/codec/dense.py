"""f32 and f16: every value as it is, or rounded to the nearest IEEE half.

f32: P little-endian fp32 values. f16: P little-endian IEEE halves; a value that would round to infinity is never sent.

Shapes: P parameters.

Pure: bytes and tensors only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2p_llm_forge.codec.update import U8, Update, check_finite
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import CodecSpec

_TYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}


def body_bytes(spec: CodecSpec, parameters: int) -> int:
    """Length of everything after the header."""
    return _TYPES[spec.kind].itemsize * parameters


def encode(update_P: Tensor, spec: CodecSpec) -> tuple[bytes, Update]:
    """The body, and what a receiver decodes.

    Raises:
        UpdateError: a value is beyond the range of f16.
    """
    with np.errstate(over="ignore"):
        values = update_P.numpy().astype(_TYPES[spec.kind], copy=True)
    if not np.isfinite(values).all():
        peak = float(update_P.abs().max())
        raise UpdateError(
            f"own update: a value of {peak:.6g} is outside the range of f16, 65504; set training.codec.kind: f32"
        )
    return values.tobytes(), _update(values.astype(np.float32, copy=False))


def decode(body: U8, spec: CodecSpec, parameters: int) -> Update:
    """Raises UpdateError: a value is not finite."""
    values = body.view(_TYPES[spec.kind]).astype(np.float32)
    check_finite(values)
    return _update(values)


def _update(values: npt.NDArray[np.float32]) -> Update:
    return Update(parameters=len(values), values=torch.from_numpy(values), indices=None)

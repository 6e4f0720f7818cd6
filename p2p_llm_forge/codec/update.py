"""A decoded update, and the header that every encoding of one begins with.

Shapes: P parameters, N values sent.

Pure: bytes and tensors only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from p2p_llm_forge.errors import UpdateError

VERSION = 1
_MAGIC = b"FRGU"
_HEADER = struct.Struct("<4sBBHIIQQ")
_CODES = {"f32": 1, "f16": 3, "int8": 4, "int4": 5, "topk": 6}  # 2 was topk with indices of 12 bits

HEADER_BYTES = _HEADER.size
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Update:
    """A decoded update; finite by construction."""

    parameters: int
    """P."""
    values: Tensor
    """fp32 [N], or [P] when dense."""
    indices: Tensor | None
    """int64 [N], strictly ascending; None when dense."""

    @property
    def count(self) -> int:
        """How many coordinates were sent."""
        return self.values.numel()

    def subtract_from(self, residual_P: Tensor) -> None:
        """residual ← residual − sent, in place."""
        if self.indices is None:
            residual_P.sub_(self.values)
        else:
            residual_P.index_add_(0, self.indices, self.values.neg())


def header(kind: str, *, chunk: int, k: int, parameters: int, values: int) -> bytes:
    """The 32 bytes before the values.

    Args:
        chunk: parameters that share a row or a scale; 0 where none do.
        k: values kept of each chunk; 0 where all are.
    """
    return _HEADER.pack(_MAGIC, VERSION, _CODES[kind], 0, chunk, k, parameters, values)


def check_finite(values: npt.NDArray[Any]) -> None:
    """Raises UpdateError."""
    if not np.isfinite(values).all():
        raise UpdateError("update: non-finite values")

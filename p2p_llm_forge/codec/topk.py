"""topk (SparseLoCo): the largest values of every chunk, each as a sign and one of two magnitudes of its chunk.

Body, little-endian: all whole chunks together, then the shorter last chunk if there is one; each as scales [rows, 2]
fp32 (small ≤ large), indices [rows, k] of 12 bits, codes [rows, k] of 2 bits (1: large, 2: negative), each row padded
with zero bits to a byte. Indices ascend strictly within a row.

Shapes: P parameters, R rows (chunks), K values kept per row, N = R x K.

Pure: bytes and tensors only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2p_llm_forge.codec.update import U8, Update, check_finite
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import CodecSpec

_LLOYD_STEPS = 3
_SHIFTS = np.array([0, 2, 4, 6], dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Rows of equal length."""

    start: int
    rows: int
    length: int
    kept: int

    @property
    def index_bytes(self) -> int:
        return (12 * self.kept + 7) // 8

    @property
    def code_bytes(self) -> int:
        return (2 * self.kept + 7) // 8

    @property
    def total_bytes(self) -> int:
        return self.rows * (8 + self.index_bytes + self.code_bytes)


def _blocks(spec: CodecSpec, parameters: int) -> list[_Block]:
    whole, rest = divmod(parameters, spec.chunk)
    blocks = [_Block(start=0, rows=whole, length=spec.chunk, kept=spec.k)] if whole else []
    if rest:
        blocks.append(_Block(start=whole * spec.chunk, rows=1, length=rest, kept=min(spec.k, rest)))
    return blocks


def count(spec: CodecSpec, parameters: int) -> int:
    """N: how many values are sent."""
    return sum(block.rows * block.kept for block in _blocks(spec, parameters))


def body_bytes(spec: CodecSpec, parameters: int) -> int:
    """Length of everything after the header."""
    return sum(block.total_bytes for block in _blocks(spec, parameters))


def encode(update_P: Tensor, spec: CodecSpec) -> tuple[bytes, Update]:
    """The body of finite values, and what a receiver decodes."""
    parts: list[bytes] = []
    decoded: list[tuple[Tensor, Tensor]] = []
    for block in _blocks(spec, update_P.numel()):
        data, indices, values_N = _encode_block(update_P, block)
        parts.append(data)
        decoded.append((indices, values_N))
    return b"".join(parts), _join(update_P.numel(), decoded)


def _join(parameters: int, parts: list[tuple[Tensor, Tensor]]) -> Update:
    indices, values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Update(parameters=parameters, values=values, indices=indices)


def _encode_block(update_P: Tensor, block: _Block) -> tuple[bytes, Tensor, Tensor]:
    rows = update_P[block.start : block.start + block.rows * block.length].view(block.rows, block.length)
    picked_RK = rows.abs().topk(block.kept, dim=1, sorted=False).indices.sort(dim=1).values
    values_RK = rows.gather(1, picked_RK)
    scales_R2, large_RK = _two_levels(values_RK.abs())
    negative_RK = values_RK < 0
    codes = large_RK.to(torch.uint8) + 2 * negative_RK.to(torch.uint8)
    indices = picked_RK.numpy().astype(np.uint16)
    scales = scales_R2.numpy().astype("<f4")
    check_finite(scales)
    data = scales.tobytes() + _pack12(indices).tobytes() + _pack2(codes.numpy()).tobytes()
    return data, *_place(indices, codes.numpy(), scales, block)


def _two_levels(magnitudes_RK: Tensor) -> tuple[Tensor, Tensor]:
    """Small and large magnitude of each row by a few Lloyd steps (1-D 2-means), and who is large."""
    split = magnitudes_RK.mean(dim=1, keepdim=True)
    for _ in range(_LLOYD_STEPS):
        large_RK = magnitudes_RK >= split
        count = large_RK.sum(dim=1, keepdim=True)
        total = magnitudes_RK.sum(dim=1, keepdim=True)
        upper = torch.where(large_RK, magnitudes_RK, 0.0).sum(dim=1, keepdim=True)
        high = upper / count.clamp(min=1)
        low = torch.minimum((total - upper).clamp(min=0.0) / (magnitudes_RK.shape[1] - count).clamp(min=1), high)
        split = low * 0.5 + high * 0.5
    return torch.cat([low, high], dim=1), large_RK


def _place(indices: npt.NDArray[np.uint16], codes: U8, scales: Any, block: _Block) -> tuple[Tensor, Tensor]:
    """Flat coordinates and signed values of a block's rows."""
    offsets = block.start + np.arange(block.rows, dtype=np.int64)[:, None] * block.length
    values = np.where(codes & 1, scales[:, 1:2], scales[:, 0:1]).astype(np.float32)
    np.negative(values, out=values, where=(codes & 2).astype(bool))
    return torch.from_numpy((indices + offsets).reshape(-1)), torch.from_numpy(values.reshape(-1))


def decode(body: U8, spec: CodecSpec, parameters: int) -> Update:
    """Raises UpdateError: not finite, not canonical."""
    parts: list[tuple[Tensor, Tensor]] = []
    for block in _blocks(spec, parameters):
        parts.append(_decode_block(body[: block.total_bytes], block))
        body = body[block.total_bytes :]
    return _join(parameters, parts)


def _decode_block(data: U8, block: _Block) -> tuple[Tensor, Tensor]:
    rows, kept = block.rows, block.kept
    first, second = 8 * rows, (8 + block.index_bytes) * rows
    scales = data[:first].view("<f4").reshape(rows, 2)
    check_finite(scales)
    if np.signbit(scales).any() or (scales[:, 0] > scales[:, 1]).any():
        raise UpdateError("update: non-canonical scales, expected 0 <= small <= large")
    indices = _unpack12(data[first:second].reshape(rows, block.index_bytes), kept)
    if (indices[:, 1:] <= indices[:, :-1]).any():
        raise UpdateError("update: non-canonical indices, expected them to ascend without repeats")
    if indices.size and int(indices[:, -1].max()) >= block.length:
        raise UpdateError(f"update: an index is outside its chunk of {block.length}")
    codes = _unpack2(data[second:].reshape(rows, block.code_bytes), kept)
    return _place(indices, codes, scales, block)


def _pack12(indices: npt.NDArray[np.uint16]) -> U8:
    """[R, K] numbers below 4096 → [R, ceil(1.5 K)] bytes."""
    rows, kept = indices.shape
    even = indices if kept % 2 == 0 else np.pad(indices, ((0, 0), (0, 1)))
    low, high = even[:, 0::2], even[:, 1::2]
    out = np.empty((rows, low.shape[1], 3), dtype=np.uint8)
    out[:, :, 0] = low & 0xFF
    out[:, :, 1] = (low >> 8) | ((high & 0xF) << 4)
    out[:, :, 2] = high >> 4
    return np.ascontiguousarray(out.reshape(rows, -1)[:, : (12 * kept + 7) // 8])


def _unpack12(packed: U8, kept: int) -> npt.NDArray[np.uint16]:
    rows, width = packed.shape
    if kept % 2:
        if (packed[:, -1] & 0xF0).any():
            raise UpdateError("update: non-canonical indices, expected zero padding bits")
        packed = np.pad(packed, ((0, 0), (0, 3 * math.ceil(kept / 2) - width)))
    triples = packed.reshape(rows, -1, 3).astype(np.uint16)
    out = np.empty((rows, triples.shape[1], 2), dtype=np.uint16)
    out[:, :, 0] = triples[:, :, 0] | ((triples[:, :, 1] & 0xF) << 8)
    out[:, :, 1] = (triples[:, :, 1] >> 4) | (triples[:, :, 2] << 4)
    return out.reshape(rows, -1)[:, :kept]


def _pack2(codes: U8) -> U8:
    """[R, K] numbers below 4 → [R, ceil(K / 4)] bytes."""
    rows, kept = codes.shape
    quads = np.pad(codes, ((0, 0), (0, -kept % 4))).reshape(rows, -1, 4)
    packed: U8 = np.bitwise_or.reduce(quads << _SHIFTS, axis=2)
    return packed


def _unpack2(packed: U8, kept: int) -> U8:
    codes: U8 = np.bitwise_and(packed[:, :, None] >> _SHIFTS, 3).astype(np.uint8).reshape(packed.shape[0], -1)
    if codes[:, kept:].any():
        raise UpdateError("update: non-canonical codes, expected zero padding bits")
    return codes[:, :kept]

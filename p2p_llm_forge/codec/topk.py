"""topk (SparseLoCo): the largest values of every chunk, each as a sign and one of two magnitudes of its chunk.

Body, little-endian: all whole chunks together, then the shorter last chunk if there is one; each as scales [rows, 2]
fp32 (small ≤ large), indices [rows, k], codes [rows, k] of 2 bits (1: large, 2: negative). Indices ascend strictly
within a row and are written as Elias and Fano did (1974): the lowest l = ⌊log2(chunk / k)⌋ bits of each, then a bitmap
in which bit (index >> l) + i is set for the i-th. That takes l + 2 bits an index, 8 for 64 of 4096, about half a bit
more than any code must, and all rows have one length. Low bits, bitmap and codes of a row are each padded with zero
bits to a byte.

Shapes: P parameters, R rows (chunks), K values kept per row, N = R x K, B bits.

Pure: bytes and tensors only.
"""

from __future__ import annotations

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
    def low_bits(self) -> int:
        return (self.length // self.kept).bit_length() - 1

    @property
    def low_bytes(self) -> int:
        return (self.low_bits * self.kept + 7) // 8

    @property
    def map_bits(self) -> int:
        return self.kept + (self.length - 1 >> self.low_bits)

    @property
    def index_bytes(self) -> int:
        return self.low_bytes + (self.map_bits + 7) // 8

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
    data = scales.tobytes() + _pack_indices(indices, block).tobytes() + _pack2(codes.numpy()).tobytes()
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
    indices = _unpack_indices(data[first:second].reshape(rows, block.index_bytes), block)
    if (indices[:, 1:] <= indices[:, :-1]).any():
        raise UpdateError("update: non-canonical indices, expected them to ascend without repeats")
    if indices.size and int(indices[:, -1].max()) >= block.length:
        raise UpdateError(f"update: an index is outside its chunk of {block.length}")
    codes = _unpack2(data[second:].reshape(rows, block.code_bytes), kept)
    return _place(indices, codes, scales, block)


def _pack_indices(indices: npt.NDArray[np.uint16], block: _Block) -> U8:
    """[R, K] ascending numbers below the block's length → [R, index_bytes]."""
    low = indices[:, :, None] >> np.arange(block.low_bits, dtype=np.uint16) & 1
    places = (indices >> block.low_bits) + np.arange(block.kept, dtype=np.uint16)
    map_RB = np.zeros((block.rows, block.map_bits), dtype=np.uint8)
    np.put_along_axis(map_RB, places.astype(np.int64), 1, axis=1)
    return np.concatenate([_pack_bits(low.astype(np.uint8).reshape(block.rows, -1)), _pack_bits(map_RB)], axis=1)


def _unpack_indices(packed: U8, block: _Block) -> npt.NDArray[np.uint16]:
    """Raises UpdateError: padding that is not zero, or a bitmap with another number of bits set."""
    rows, kept, width = block.rows, block.kept, block.low_bits
    low_RB = _unpack_bits(packed[:, : block.low_bytes], width * kept)
    map_RB = _unpack_bits(packed[:, block.low_bytes :], block.map_bits)
    if (np.count_nonzero(map_RB, axis=1) != kept).any():
        raise UpdateError(f"update: non-canonical indices, expected {kept} in each chunk")
    high = np.nonzero(map_RB)[1].reshape(rows, kept) - np.arange(kept)
    low = low_RB.reshape(rows, kept, width).astype(np.uint16) << np.arange(width, dtype=np.uint16)
    found: npt.NDArray[np.uint16] = (high << width).astype(np.uint16) + low.sum(axis=2, dtype=np.uint16)
    return found


def _pack_bits(bits_RB: U8) -> U8:
    return np.packbits(bits_RB, axis=1, bitorder="little")


def _unpack_bits(packed: U8, count: int) -> U8:
    """[R, B] zeros and ones. Raises UpdateError: padding that is not zero."""
    bits_RB = np.unpackbits(packed, axis=1, bitorder="little")
    if bits_RB[:, count:].any():
        raise UpdateError("update: non-canonical indices, expected zero padding bits")
    return bits_RB[:, :count]


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

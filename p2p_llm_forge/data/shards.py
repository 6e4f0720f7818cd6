"""Packs token streams into 1 MiB shards with a manifest, and reads windows back from them.

A window is `sequence_length` tokens and the one after it, so a sample has that many predictions. Windows overlap only
in that one token, which the next window never predicts: held-out targets are never trained on.

IO: writes and reads shard files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from p2p_llm_forge.blobs import CHUNK_BYTES, blob_id, decode_json, disk_error, encode_json, read_blob, write_atomic
from p2p_llm_forge.errors import BlobError, CorpusError

MANIFEST_LIMIT_BYTES = 16 << 20


class Manifest(BaseModel):
    """What the shards of a run hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    """Version of this format."""
    dtype: Literal["uint16", "uint32"]
    """Little-endian type of a token."""
    sequence_length: int = Field(ge=8, le=1 << 20)
    """Tokens per window."""
    vocab_size: int = Field(ge=2, le=1 << 22)
    """Every token is below this."""
    tokens: int = Field(ge=9, le=1 << 48)
    """Tokens in all shards together: windows x sequence_length + 1."""
    train_slots: int = Field(ge=1)
    """Windows that slots read."""
    held_out_slots: int = Field(ge=0)
    """Windows that are never trained on."""
    shards: tuple[str, ...] = Field(min_length=1)
    """Blob id of each shard in order; all but the last are 1 MiB."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tokens != (self.train_slots + self.held_out_slots) * self.sequence_length + 1:
            raise ValueError("tokens do not match the slots")
        lengths = [int(shard.partition("-")[2] or -1) for shard in self.shards if _is_id(shard)]
        if len(lengths) != len(self.shards) or any(length != CHUNK_BYTES for length in lengths[:-1]):
            raise ValueError("a shard id is malformed or not of a 1 MiB shard")
        if sum(lengths) != self.tokens * self.token_bytes or not 0 < lengths[-1] <= CHUNK_BYTES:
            raise ValueError("the shards' lengths do not match the tokens")
        return self

    @property
    def token_bytes(self) -> int:
        """Bytes per token."""
        return 2 if self.dtype == "uint16" else 4

    def encode(self) -> bytes:
        """The manifest blob."""
        return encode_json(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, blob: bytes) -> Manifest:
        """Parse a manifest blob strictly. Raises BlobError."""
        value: Any = decode_json(blob, "manifest")
        try:
            return cls.model_validate_json(encode_json(value))
        except ValidationError as exc:
            fault = exc.errors(include_url=False)[0]
            place = ".".join(str(part) for part in fault["loc"]) or "manifest"
            raise BlobError(f"manifest: {place}: {fault['msg']}") from exc


def _is_id(text: str) -> bool:
    root, dash, length = text.partition("-")
    digits = length.isascii() and length.isdigit() and (length == "0" or length[0] != "0")
    return len(root) == 64 and not root.strip("0123456789abcdef") and dash == "-" and digits and len(length) <= 16


def pack(
    pieces: Iterable[npt.NDArray[np.uint32]],
    *,
    folder: Path,
    sequence_length: int,
    held_out: float,
    vocab_size: int,
    corpus: str,
) -> tuple[Manifest, list[Path]]:
    """Write the token stream as shard files 00000.bin, … in `folder`; at most one shard is held in memory.

    Raises:
        CorpusError: fewer tokens than one training window. DiskError: the folder cannot take the shards.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    writer = _ShardWriter(folder, CHUNK_BYTES // dtype.itemsize)
    for piece in pieces:
        if piece.size and int(piece.max()) >= vocab_size:
            raise CorpusError(f"corpus {corpus}: token {int(piece.max())} is outside the vocabulary of {vocab_size}")
        writer.add(piece.astype(dtype))
    windows = (writer.total - 1) // sequence_length
    held = min(windows - 1, round(windows * held_out))
    if windows < 1:
        raise CorpusError(
            f"corpus {corpus}: {writer.total} tokens, shorter than one sequence of {sequence_length} (+1); "
            "give more text or a smaller data.sequence_length"
        )
    if held_out > 0.0 and windows >= 2:
        held = max(held, 1)
    tokens = windows * sequence_length + 1
    ids, paths = writer.finish(tokens)
    manifest = Manifest(
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        sequence_length=sequence_length,
        vocab_size=vocab_size,
        tokens=tokens,
        train_slots=windows - held,
        held_out_slots=held,
        shards=tuple(ids),
    )
    return manifest, paths


class _ShardWriter:
    """Cuts a token stream into files; the cut tail is known only at the end, so the last two shards are held back."""

    def __init__(self, folder: Path, shard_tokens: int) -> None:
        self.folder, self.shard_tokens = folder, shard_tokens
        self.total = 0
        self._ids: list[str] = []
        self._paths: list[Path] = []
        self._pending: list[npt.NDArray[Any]] = []
        self._held = 0

    def add(self, tokens: npt.NDArray[Any]) -> None:
        self.total += tokens.size
        self._pending.append(tokens)
        self._held += tokens.size
        # A run drops less than one window at the end; holding more than that back keeps written shards final.
        while self._held >= self.shard_tokens * 3:
            joined = np.concatenate(self._pending)
            self._write(joined[: self.shard_tokens])
            self._pending = [joined[self.shard_tokens :]]
            self._held = self._pending[0].size

    def finish(self, tokens: int) -> tuple[list[str], list[Path]]:
        rest = np.concatenate(self._pending)
        written = len(self._ids) * self.shard_tokens
        assert tokens > written
        rest = rest[: tokens - written]
        for at in range(0, rest.size, self.shard_tokens):
            self._write(rest[at : at + self.shard_tokens])
        return self._ids, self._paths

    def _write(self, tokens: npt.NDArray[Any]) -> None:
        path = self.folder / f"{len(self._ids):05d}.bin"
        data = np.ascontiguousarray(tokens).tobytes()
        write_atomic(path, [data])
        self._ids.append(blob_id(data))
        self._paths.append(path)


class Shards:
    """Random access to the windows of a run's shards, memory-mapped."""

    def __init__(self, manifest: Manifest, paths: Sequence[Path]) -> None:
        """Map the files; their lengths must be the manifest's.

        Raises:
            BlobError: wrong number or length of shards. DiskError: unreadable.
        """
        if len(paths) != len(manifest.shards):
            raise BlobError(f"shards: {len(paths)} files, the manifest lists {len(manifest.shards)}")
        dtype = np.dtype("<u2" if manifest.dtype == "uint16" else "<u4")
        self.manifest = manifest
        self._maps: list[npt.NDArray[Any]] = []
        for path, shard in zip(paths, manifest.shards, strict=True):
            expected = int(shard.partition("-")[2])
            try:
                found = path.stat().st_size
                if found != expected:
                    raise BlobError(f"shard {path.name}: {found} bytes, expected {expected}; fetch it again")
                self._maps.append(np.memmap(path, dtype=dtype, mode="r"))
            except OSError as exc:
                raise disk_error(exc, path) from exc
        self._shard_tokens = CHUNK_BYTES // dtype.itemsize

    def read(self, windows: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Tokens of these windows, [len(windows), sequence_length + 1].

        Raises:
            BlobError: a token outside the vocabulary.
        """
        length = self.manifest.sequence_length
        out = np.empty((len(windows), length + 1), dtype=np.int64)
        for row, window in enumerate(windows.tolist()):
            self._copy(window * length, out[row])
        if out.size and int(out.max()) >= self.manifest.vocab_size:
            raise BlobError(f"shards: token {int(out.max())} is outside the vocabulary of {self.manifest.vocab_size}")
        return out

    def _copy(self, start: int, row: npt.NDArray[np.int64]) -> None:
        filled = 0
        while filled < row.size:
            shard, at = divmod(start + filled, self._shard_tokens)
            part = self._maps[shard][at : at + row.size - filled]
            row[filled : filled + part.size] = part
            filled += part.size


def load_manifest(path: Path) -> Manifest:
    """Read and parse a manifest file. Raises BlobError, DiskError."""
    return Manifest.parse(read_blob(path, MANIFEST_LIMIT_BYTES, "manifest"))

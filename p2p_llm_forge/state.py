"""The canonical state: the shared weights and outer-optimizer state of a round, as one strict safetensors file.

Layout: u64le header length, sorted JSON header padded with spaces to a multiple of 64 bytes in all, then little-endian
fp32: the distinct parameters in order of name, and after them the tensors of the outer optimizer, if it has any:
`outer.momentum` [P], or `outer.first_moment` [P], `outer.second_moment` [P] and `outer.steps` [1].
The bytes are a function of names, shapes and values only, so equal states have equal ids on every machine. A `State`
holds the file in memory as it is, and its tensors are views of it: writing and hashing copy nothing.

Shapes: P distinct parameters.

IO: `load` reads, `write` writes; the rest is pure.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from p2p_llm_forge.blobs import CHUNK_BYTES, chunks, disk_error, leaf_hash, merkle_root, write_atomic
from p2p_llm_forge.errors import StateError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.settings import OuterSpec

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

FORMAT = "p2p-llm-forge/state/v1"
PREFIX = "outer."
_ALIGN = 64


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which parameters a state holds, in order."""

    names: tuple[str, ...]
    """Parameter names, sorted."""
    shapes: tuple[tuple[int, ...], ...]
    """Their shapes."""
    moments: tuple[str, ...]
    """The outer optimizer's tensors of one value per parameter, in order."""
    counters: tuple[str, ...]
    """Its tensors of one value, after them."""

    @classmethod
    def of(cls, model: nn.Module, outer: OuterSpec) -> Layout:
        """The layout of a model's distinct parameters; tied ones appear once, under their first name."""
        named = sorted((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())
        assert all(name != "__metadata__" and not name.startswith(PREFIX) for name, _ in named)
        names, shapes = tuple(name for name, _ in named), tuple(shape for _, shape in named)
        return cls(names=names, shapes=shapes, moments=outer.moments, counters=outer.counters)

    @property
    def parameters(self) -> int:
        """P."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def total_bytes(self) -> int:
        """Length of the canonical bytes."""
        return len(self.header()) + 4 * (self.parameters * (1 + len(self.moments)) + len(self.counters))

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Where each parameter lies in the flat weights, in order: start, end, number of dimensions."""
        at = 0
        for shape in self.shapes:
            yield at, at + math.prod(shape), len(shape)
            at += math.prod(shape)

    def header(self) -> bytes:
        """Everything before the values."""
        entries: dict[str, object] = {"__metadata__": {"format": FORMAT}}
        at = 0
        tensors: list[tuple[str, Sequence[int]]] = list(zip(self.names, self.shapes, strict=True))
        tensors.extend((PREFIX + name, [self.parameters]) for name in self.moments)
        tensors.extend((PREFIX + name, [1]) for name in self.counters)
        for name, shape in tensors:
            end = at + 4 * math.prod(shape)
            entries[name] = {"data_offsets": [at, end], "dtype": "F32", "shape": list(shape)}
            at = end
        text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % _ALIGN)
        return len(text).to_bytes(8, "little") + text


class State:
    """A state in memory. `weights_P` and what is in `outer` are views; after changing them the id is computed anew."""

    def __init__(self, layout: Layout, buffer: npt.NDArray[np.uint8]) -> None:
        assert buffer.nbytes == layout.total_bytes
        self.layout = layout
        self._buffer = buffer
        start, size = len(layout.header()), layout.parameters
        values = torch.from_numpy(buffer[start:].view("<f4"))
        self.weights_P: Tensor = values[:size]
        lengths = [size] * len(layout.moments) + [1] * len(layout.counters)
        parts = torch.split(values[size:], lengths)
        self.outer: dict[str, Tensor] = dict(zip(layout.moments + layout.counters, parts, strict=True))

    @classmethod
    def of_model(cls, model: nn.Module, layout: Layout) -> State:
        """The state with this model's weights and nothing in the outer optimizer yet."""
        state = cls.blank(layout)
        parameters = dict(model.named_parameters())
        at = 0
        for name in layout.names:
            flat = parameters[name].detach().reshape(-1)
            state.weights_P[at : at + flat.numel()].copy_(flat)
            at += flat.numel()
        return state

    @classmethod
    def blank(cls, layout: Layout) -> State:
        """All zeros."""
        buffer = np.zeros(layout.total_bytes, dtype=np.uint8)
        header = layout.header()
        buffer[: len(header)] = np.frombuffer(header, dtype=np.uint8)
        return cls(layout, buffer)

    @classmethod
    def load(cls, path: Path, layout: Layout) -> State:
        """Read a state file strictly: exact length, exact header, finite values, whole counts.

        Raises:
            StateError: anything else. DiskError: unreadable.
        """
        header, what = layout.header(), f"state {path.name}"
        buffer = np.empty(layout.total_bytes, dtype=np.uint8)
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != buffer.nbytes:
                    raise StateError(f"{what}: {found} bytes, expected {buffer.nbytes}; fetch the state of this run")
                if file.readinto(buffer.data) != buffer.nbytes:
                    raise StateError(f"{what}: truncated while it was read")
        except OSError as exc:
            raise disk_error(exc, path) from exc
        if bytes(buffer[: len(header)]) != header:
            raise StateError(f"{what}: its header is not the canonical one of this model; fetch the state of this run")
        state = cls(layout, buffer)
        if not state.is_finite():
            raise StateError(f"{what}: holds values that are not finite")
        for name in layout.counters:
            count = float(state.outer[name])
            if count < 0.0 or not count.is_integer():
                raise StateError(f"{what}: {PREFIX}{name} is {count}, expected a whole number, 0 or more")
        return state

    def copy(self) -> State:
        """An independent state with the same values."""
        return State(self.layout, self._buffer.copy())

    def is_finite(self) -> bool:
        """Whether every value is a number."""
        return all(is_finite(values) for values in (self.weights_P, *self.outer.values()))

    def id(self, threads: int = 1) -> str:
        """The state id: the blob id of the canonical bytes; hashing leaves the interpreter lock alone."""
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                root = merkle_root(pool.map(leaf_hash, chunks(self.data)))
        else:
            root = merkle_root(map(leaf_hash, chunks(self.data)))
        return f"{root.hex()}-{self._buffer.nbytes}"

    @property
    def data(self) -> memoryview:
        """The canonical bytes, not copied."""
        return self._buffer.data

    def besides_weights(self) -> Iterator[Buffer]:
        """What gives the id together with the weights: the header, what follows the weights up to the end of the chunk
        in which they end, and the leaf hashes of the chunks after that."""
        header, data = self.layout.header(), self.data
        end = len(header) + 4 * self.layout.parameters
        edge = min(-(-end // CHUNK_BYTES) * CHUNK_BYTES, len(data))
        yield header
        yield data[end:edge]
        yield from map(leaf_hash, chunks(data[edge:]))

    def write(self, path: Path, *, durable: bool = True) -> None:
        """Write the canonical bytes so that `path` is whole or absent (`write_atomic`). Raises DiskError."""
        write_atomic(path, [self.data], durable=durable)

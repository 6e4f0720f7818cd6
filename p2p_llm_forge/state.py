"""The canonical state: the shared weights and outer-optimizer state of a round, as one strict safetensors file.

Layout: u64le header length, sorted JSON header padded with spaces to a multiple of 64 bytes in all, then little-endian
fp32: the distinct parameters in order of name, and after them `outer.momentum` [P] where the outer optimizer has one.
The bytes are a function of names, shapes and values only, so equal states have equal ids on every machine. A `State`
holds the file in memory as it is, and its tensors are views of it: writing and hashing copy nothing.

Shapes: P distinct parameters.

IO: `load` reads, `write` writes; the rest is pure.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from p2p_llm_forge.blobs import chunks, disk_error, leaf_hash, merkle_root, write_atomic
from p2p_llm_forge.errors import StateError

FORMAT = "p2p-llm-forge/state/v1"
MOMENTUM = "outer.momentum"
_ALIGN = 64


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which parameters a state holds, in order."""

    names: tuple[str, ...]
    """Parameter names, sorted."""
    shapes: tuple[tuple[int, ...], ...]
    """Their shapes."""
    momentum: bool
    """Whether outer momentum follows."""

    @classmethod
    def of(cls, model: nn.Module, *, momentum: bool) -> Layout:
        """The layout of a model's distinct parameters; tied ones appear once, under their first name."""
        named = sorted((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())
        assert all(name not in {MOMENTUM, "__metadata__"} for name, _ in named)
        return cls(names=tuple(name for name, _ in named), shapes=tuple(shape for _, shape in named), momentum=momentum)

    @property
    def parameters(self) -> int:
        """P."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def total_bytes(self) -> int:
        """Length of the canonical bytes."""
        return len(self.header()) + 4 * self.parameters * (2 if self.momentum else 1)

    def header(self) -> bytes:
        """Everything before the values."""
        entries: dict[str, object] = {"__metadata__": {"format": FORMAT}}
        at = 0
        tensors: list[tuple[str, Sequence[int]]] = list(zip(self.names, self.shapes, strict=True))
        if self.momentum:
            tensors.append((MOMENTUM, [self.parameters]))
        for name, shape in tensors:
            end = at + 4 * math.prod(shape)
            entries[name] = {"data_offsets": [at, end], "dtype": "F32", "shape": list(shape)}
            at = end
        text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % _ALIGN)
        return len(text).to_bytes(8, "little") + text


class State:
    """A state in memory. `weights_P` and `momentum_P` are views; after changing them the id is computed anew."""

    def __init__(self, layout: Layout, buffer: npt.NDArray[np.uint8]) -> None:
        assert buffer.nbytes == layout.total_bytes
        self.layout = layout
        self._buffer = buffer
        start, size = len(layout.header()), layout.parameters
        values = torch.from_numpy(buffer[start:].view("<f4"))
        self.weights_P: Tensor = values[:size]
        self.momentum_P: Tensor | None = values[size:] if layout.momentum else None

    @classmethod
    def of_model(cls, model: nn.Module, layout: Layout) -> State:
        """The state with this model's weights and no outer momentum yet."""
        state = cls._blank(layout)
        parameters = dict(model.named_parameters())
        at = 0
        for name in layout.names:
            flat = parameters[name].detach().reshape(-1)
            state.weights_P[at : at + flat.numel()].copy_(flat)
            at += flat.numel()
        return state

    @classmethod
    def _blank(cls, layout: Layout) -> State:
        buffer = np.zeros(layout.total_bytes, dtype=np.uint8)
        header = layout.header()
        buffer[: len(header)] = np.frombuffer(header, dtype=np.uint8)
        return cls(layout, buffer)

    @classmethod
    def load(cls, path: Path, layout: Layout) -> State:
        """Read a state file strictly: exact length, exact header, finite values.

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
        return state

    def copy(self) -> State:
        """An independent state with the same values."""
        return State(self.layout, self._buffer.copy())

    def is_finite(self) -> bool:
        """Whether every value is a number."""
        momentum = self.momentum_P is None or bool(torch.isfinite(self.momentum_P).all())
        return momentum and bool(torch.isfinite(self.weights_P).all())

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

    def write(self, path: Path) -> None:
        """Write the canonical bytes so that `path` is whole or absent. Raises DiskError."""
        write_atomic(path, [self.data])

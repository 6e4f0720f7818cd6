"""Files that a worker keeps for the worker after it: the residual and the inner optimizer's state after a round.

`residual-<round>.safetensors` and `optimizer-<round>.safetensors`, of the two newest rounds. Layout: a header of
1024 bytes in all (u64le length, sorted JSON, spaces), then little-endian fp32. Its metadata tells the format, the kind,
the hash of the run's config, the round, the state it started from, the update that came of it and the SHA-256 of the
values; whatever does not encode to the very same header again is refused, and so is another length or another hash.

A residual has its name before the update is told to anybody, so a killed process has lost nothing; the optimizer's
state follows on a thread, and the flush to the disk while the next round is trained, so that nobody waits for 12 bytes
a parameter. What a power cut leaves half written is refused by its hash, and the round before is taken up.

Shapes: P parameters, T tensors.

IO: reads and writes its own folder; one thread while it writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2p_llm_forge.blobs import disk_error, sync_file, write_atomic
from p2p_llm_forge.errors import DiskError, StateError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.inner import Moments
from p2p_llm_forge.state import Layout

FORMAT = "p2p-llm-forge/kept/v1"
HEADER_BYTES = 1024
KEPT_ROUNDS = 2
RESIDUAL, OPTIMIZER = "residual", "optimizer"
_NAME = re.compile(r"(residual|optimizer)-([1-9][0-9]{0,15})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a file was kept after."""

    round: int
    """The round that was trained."""
    state: str
    """Id of the state that it started from."""
    update: str
    """Id of the update that came of it."""


@dataclass(frozen=True, kw_only=True)
class Residual:
    """Everything that was not known to be settled when a round's update was written, that update included."""

    label: Label
    values_P: Tensor
    """fp32 [P] on the CPU."""


class Kept:
    """The kept files of one run. What could not be kept or taken up is told in `notes` and stops nobody."""

    def __init__(self, folder: Path, layout: Layout, *, config: str, on: bool) -> None:
        """Take up the folder; what a killed writer left half done is removed.

        Args:
            folder: holds nothing else.
            layout: what the moments are of.
            config: SHA-256 of the run's canonical config, hex; files of another one are refused.
            on: whether anything is written or read.
        """
        self.notes: list[str] = []
        self._folder, self._layout, self._config, self._on = folder, layout, config, on
        self._sizes = {
            RESIDUAL: {RESIDUAL: layout.parameters},
            OPTIMIZER: {"first": layout.parameters, "second": layout.parameters, "steps": len(layout.names)},
        }
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="kept")
        self.writing: Future[None] | None = None
        """The moments on their way, until `wait`."""
        self._syncing: list[Future[None]] = []
        self._unsynced: list[tuple[str, int]] = []
        """Kind and round of what is kept, but not durable yet."""
        for part in folder.glob(".*.part"):
            part.unlink(missing_ok=True)

    # ------------------------------------------------------------------ writing

    def write(self, residual: Residual, moments: Moments | None) -> None:
        """Keep the residual; then, on the thread, the moments, which nobody may change before `wait` has returned."""
        if not self._on:
            return
        self.wait()
        try:
            self._write(RESIDUAL, residual.label, [residual.values_P])
        except DiskError as exc:
            self.notes.append(f"not kept: {exc.message}")
            return
        self._unsynced = [(RESIDUAL, residual.label.round)]
        self.writing = self._writer.submit(self._follow, residual.label, moments)

    def wait(self) -> None:
        """Until the moments are kept; what was kept is made durable after that, while training goes on."""
        if self.writing is not None:
            self._result(self.writing)
            self._syncing.append(self._writer.submit(self._sync, self._unsynced))
        self.writing, self._unsynced = None, []
        while self._syncing and self._syncing[0].done():
            self._result(self._syncing.pop(0))

    def end(self) -> None:
        """Until all that was kept is durable."""
        self.wait()
        for syncing in self._syncing:
            self._result(syncing)
        self._syncing = []

    def _result(self, done: Future[None]) -> None:
        try:
            done.result()
        except DiskError as exc:
            self.notes.append(f"not kept: {exc.message}")

    def _follow(self, label: Label, moments: Moments | None) -> None:
        """Before anything of a later round is written: what is pruned is told from what is kept by the rounds."""
        self._prune(RESIDUAL, label.round)
        if moments is not None:
            self._write(OPTIMIZER, label, [*moments.first, *moments.second, moments.steps_T])
            self._unsynced.append((OPTIMIZER, label.round))
            self._prune(OPTIMIZER, label.round)

    def _sync(self, kept: Sequence[tuple[str, int]]) -> None:
        for kind, number in kept:
            sync_file(self._path(kind, number))

    def _write(self, kind: str, label: Label, tensors: Sequence[Tensor]) -> None:
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(_values(tensor))
        head = self._header(kind, label, digest.hexdigest())
        write_atomic(self._path(kind, label.round), chain([head], map(_values, tensors)), durable=False)

    def _prune(self, kind: str, newest: int) -> None:
        """Keep two rounds; those after the newest are of a course that the run did not take."""
        rounds = self._rounds(kind)
        keep = [number for number in rounds if number <= newest][:KEPT_ROUNDS]
        for path in [self._path(kind, number) for number in set(rounds) - set(keep)]:
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                raise disk_error(exc, path) from exc

    # ------------------------------------------------------------------ reading

    def residual(self, before: int) -> Residual | None:
        """The newest sound one of an earlier round than `before`."""
        found = self._newest(RESIDUAL, before)
        return Residual(label=found[0], values_P=found[1]) if found is not None else None

    def moments(self, before: int) -> tuple[Label, Moments] | None:
        """The newest sound ones of an earlier round than `before`."""
        found = self._newest(OPTIMIZER, before)
        if found is None:
            return None
        label, values = found
        size = self._layout.parameters
        return label, Moments.of(values[:size], values[size : 2 * size], values[2 * size :], self._layout)

    def _newest(self, kind: str, before: int) -> tuple[Label, Tensor] | None:
        for number in self._rounds(kind) if self._on else []:
            if number >= before:
                continue
            try:
                return self._read(kind, number)
            except (StateError, DiskError) as exc:
                self.notes.append(f"not taken up: {exc.message}")
        return None

    def _read(self, kind: str, number: int) -> tuple[Label, Tensor]:
        """One file, strictly: header, length, hash, finite values. Raises StateError, DiskError."""
        path = self._path(kind, number)
        size = 4 * sum(self._sizes[kind].values())
        try:
            with path.open("rb") as file:
                head = file.read(HEADER_BYTES)
                label, digest = self._label(kind, head, f"kept {path.name}")
                if label.round != number:
                    raise StateError(f"kept {path.name}: its header says round {label.round}")
                found = os.fstat(file.fileno()).st_size - HEADER_BYTES
                if found != size:
                    raise StateError(f"kept {path.name}: {found} bytes of values, expected {size}")
                buffer = np.empty(size, dtype=np.uint8)
                if file.readinto(buffer.data) != size or hashlib.sha256(buffer.data).hexdigest() != digest:
                    raise StateError(f"kept {path.name}: damaged, its values have another hash")
        except OSError as exc:
            raise disk_error(exc, path) from exc
        values = torch.from_numpy(buffer.view("<f4"))
        if not is_finite(values):
            raise StateError(f"kept {path.name}: holds values that are not finite")
        return label, values

    # ------------------------------------------------------------------ form

    def _header(self, kind: str, label: Label, digest: str) -> bytes:
        named = {**asdict(label), "round": str(label.round), "config": self._config}
        entries: dict[str, object] = {"__metadata__": {"format": FORMAT, "kind": kind, "sha256": digest, **named}}
        at = 0
        for name, count in self._sizes[kind].items():
            entries[name] = {"data_offsets": [at, at + 4 * count], "dtype": "F32", "shape": [count]}
            at += 4 * count
        text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
        assert len(text) <= HEADER_BYTES - 8
        return (HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(HEADER_BYTES - 8)

    def _label(self, kind: str, head: bytes, what: str) -> tuple[Label, str]:
        try:
            told = json.loads(head[8:])["__metadata__"]
            version, config, digest = str(told["format"]), str(told["config"]), str(told["sha256"])
            label = Label(round=int(told["round"]), state=str(told["state"]), update=str(told["update"]))
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise StateError(f"{what}: damaged, its header is none") from exc
        if version != FORMAT:
            raise StateError(f"{what}: format {version[:40]!r}, this version reads {FORMAT!r}")
        if config != self._config:
            raise StateError(f"{what}: of another run, config {config[:16]}, this one is {self._config[:16]}")
        if not _fits(label, digest) or self._header(kind, label, digest) != head:
            raise StateError(f"{what}: its header is not the canonical one of this model")
        return label, digest

    def _rounds(self, kind: str) -> list[int]:
        """Rounds that there is a file of, newest first."""
        names = (_NAME.fullmatch(path.name) for path in self._folder.glob(f"{kind}-*"))
        return sorted((int(name[2]) for name in names if name is not None and name[1] == kind), reverse=True)

    def _path(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number}.safetensors"


def _fits(label: Label, digest: str) -> bool:
    """Whether these can be written into a header at all."""
    return max(map(len, (label.state, label.update, digest))) <= 100 and 0 < label.round < 1 << 53


def _values(tensor: Tensor) -> memoryview:
    """The little-endian bytes of an fp32 tensor; copied only from an accelerator."""
    values: npt.NDArray[np.float32] = tensor.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
    return values.reshape(-1).data.cast("B")

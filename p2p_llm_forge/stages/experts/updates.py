"""A piece's updates on disk, and what rounding took of one: it is owed to the next, once the log has settled the one.

As in mode synchronous: a gradient that was not settled is never sent, nor is what it owed.

Shapes: P parameters of the piece.

IO: writes into its own folder, each file whole or absent.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from p2p_llm_forge import codec
from p2p_llm_forge.blobs import blob_id, write_atomic
from p2p_llm_forge.carry import file_name
from p2p_llm_forge.recent import keep_newest
from p2p_llm_forge.settings import CodecSpec
from p2p_llm_forge.stages.held import Settled


class Updates:
    """One piece's on one peer; belongs to its thread."""

    def __init__(self, folder: Path, spec: CodecSpec) -> None:
        self._folder, self._spec = folder, spec
        self._owed: tuple[Path, Tensor] | None = None  # What rounding took of the newest update.
        self._carried_P: Tensor | None = None  # What rounding took of the one before, once it was applied.

    def write(self, sum_P: Tensor) -> Path:
        """Encode a round's sum of gradients. Raises UpdateError, DiskError."""
        sum_P = sum_P.to("cpu", copy=True)
        if self._carried_P is not None:
            sum_P.add_(self._carried_P * self._spec.decay)
        data, sent = codec.encode(sum_P, self._spec)
        path = self._folder / file_name(blob_id(data))
        write_atomic(path, [data])
        keep_newest(self._folder, "*.update", path)
        if self._spec.kind != "f32":
            sent.subtract_from(sum_P)
            self._owed = path, sum_P
        return path

    def applied(self, own: Settled) -> None:
        """These updates were applied."""
        owed, self._owed, self._carried_P = self._owed, None, None
        if owed is not None and any(item.mine and Path(item.path).name == owed[0].name for item in own):
            self._carried_P = owed[1]

    def jumped(self) -> None:
        """Another state was taken over: nothing is owed to it."""
        self._owed = self._carried_P = None

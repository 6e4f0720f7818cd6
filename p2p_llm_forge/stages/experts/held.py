"""A part's state on one peer, and how a settled round moves it: update, norm, clipped step, new state.

Shapes: P parameters of the part.

IO: writes updates and states into its own folder, each whole or absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from p2p_llm_forge import codec
from p2p_llm_forge.blobs import blob_id, write_atomic
from p2p_llm_forge.codec import Update
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.recent import keep_newest
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages import step
from p2p_llm_forge.stages.experts.parts import Part
from p2p_llm_forge.state import State


class Held:
    """One replica's; belongs to one thread. Nothing changes when a method raises."""

    def __init__(self, *, part: Part, state: State, spec: TrainingSpec, folder: Path) -> None:
        assert state.layout == part.layout
        self.part, self.spec, self.folder = part, spec, folder
        self.state, self.state_id = state, state.id(torch.get_num_threads())

    def write_update(self, sum_P: Tensor) -> Path:
        """Encode a round's sum of gradients. Raises UpdateError, DiskError."""
        data, _ = codec.encode(sum_P.to("cpu", copy=True), self.spec.codec)
        path = self.folder / "updates" / f"{blob_id(data).partition('-')[0]}.update"
        write_atomic(path, [data])
        keep_newest(path.parent, "*.update", path)
        return path

    def norm(self, updates: Sequence[Update], tokens: int) -> float:
        """The norm of the part's mean gradient, from the updates of its replicas in receipt order.

        Args:
            tokens: of the round.
        """
        return step.mean(updates, (), tokens, self.part.layout, None).norm

    def apply(self, round_number: int, updates: Sequence[Update], tokens: int, norms: Sequence[float]) -> str:
        """Take the round's step and write the state; returns its id.

        Args:
            norms: of all parts of the model, in the order of their ids; they clip.

        Raises:
            UpdateError, DiskError.
        """
        new = self.state.copy()
        found = step.mean(updates, (), tokens, self.part.layout, None)
        step.step(new, found, norms, self.spec, round_number)
        if not new.is_finite():
            raise UpdateError(f"round {round_number}: the settled updates of {self.part.what} lead to values not finite")
        new_id = new.id(torch.get_num_threads())
        path = self.folder / "states" / f"{new_id.partition('-')[0]}.safetensors"
        new.write(path)
        keep_newest(path.parent, "*.safetensors", path)
        self.state, self.state_id = new, new_id
        return new_id

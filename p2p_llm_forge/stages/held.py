"""The state of one stage, and how the settled updates move it: nothing changes unless the new one is on disk.

Shapes: P parameters of the stage.

IO: reads updates and states; writes states into its own folder, each whole or absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from p2p_llm_forge import codec, outer
from p2p_llm_forge.blobs import read_blob
from p2p_llm_forge.errors import BlobError, RequestError, StateError, UpdateError
from p2p_llm_forge.protocol import Contribution
from p2p_llm_forge.recent import keep_newest
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages import step
from p2p_llm_forge.stages.step import Mean, Partner
from p2p_llm_forge.state import Layout, State

Settled = Sequence[Contribution]
"""Updates in receipt order."""


class Held:
    """A stage's state and its id."""

    def __init__(self, path: Path, layouts: Sequence[Layout], *, index: int, spec: TrainingSpec, folder: Path) -> None:
        """Load the state.

        Args:
            layouts: of all stages in order.
            index: which stage.
            folder: where new states go.

        Raises:
            StateError, DiskError: no state of this stage.
        """
        self.layout, self.index, self.spec = layouts[index], index, spec
        self._layouts = layouts
        self._folder = folder
        self._mean: tuple[object, Mean] | None = None
        self.load(path)

    def load(self, path: Path) -> None:
        """Go on with another state. Raises StateError, DiskError, and nothing has changed."""
        self.state = State.load(path, self.layout)
        self.id = self.state.id(torch.get_num_threads())
        self._mean = None

    @property
    def partner(self) -> Partner | None:
        """The stage that shares a tensor with this one."""
        return Partner.of(self._layouts, self.index)

    def norm(self, state: str, own: Settled, theirs: Settled, tokens: int = 0) -> str:
        """The norm of the stage's mean gradient, as 16 hex digits.

        Args:
            state: id of the state that the updates belong to.
            own: the stage's updates.
            theirs: those of the stage that shares a tensor with it.
            tokens: of the round, where the stage is a group of experts that may have served less; 0: of the updates.

        Raises:
            StateError: another state is held. RequestError, UpdateError, DiskError: the updates are not what they
                should be.
        """
        self._check(state)
        return step.norm_hex(self._kept(own, theirs, tokens).norm)

    def norm_of(self, index: int, own: Settled, theirs: Settled, tokens: int = 0) -> str:
        """The same of any stage, whose state need not be here. Raises as `norm`."""
        return step.norm_hex(self._found(index, own, theirs, tokens).norm)

    def apply(
        self, state: str, round_number: int, own: Settled, theirs: Settled, norms: Sequence[str], tokens: int = 0
    ) -> Path:
        """Take the round's step and write the new state; returns its file.

        Args:
            norms: of all stages in their order, as `norm` gives them.

        Raises:
            As `norm`, with state and files as before.
        """
        self._check(state)
        found, told = self._kept(own, theirs, tokens), [step.norm_of_hex(norm) for norm in norms]
        if not self.index < len(told) or told[self.index] != found.norm:
            here = norms[self.index] if self.index < len(told) else "none"
            raise UpdateError(f"norms: stage {self.index} is told {here}, found {step.norm_hex(found.norm)}")
        new = self.state.copy()
        self._mean = None  # The step uses it up.
        step.step(new, found, told, self.spec, round_number)
        if not new.is_finite():
            raise UpdateError(f"round {round_number}: the settled updates lead to values that are not finite")
        new_id = new.id(torch.get_num_threads())
        path = self._folder / f"{new_id.partition('-')[0]}.safetensors"
        new.write(path)
        keep_newest(self._folder, "*.safetensors", path)
        self.state, self.id = new, new_id
        return path

    def _check(self, state: str) -> None:
        if state != self.id:
            raise StateError(f"stage {self.index}: holds state {self.id[:16]}, wanted {state[:16]}; load it")

    def _kept(self, own: Settled, theirs: Settled, tokens: int) -> Mean:
        """Our own stage's mean gradient: `norm` has just asked for what `apply` asks for again."""
        key = [(item.path, item.tokens) for item in (*own, *theirs)], len(own), tokens
        if self._mean is None or self._mean[0] != key:
            self._mean = (key, self._found(self.index, own, theirs, tokens))
        return self._mean[1]

    def _found(self, index: int, own: Settled, theirs: Settled, whole: int) -> Mean:
        partner = Partner.of(self._layouts, index)
        if not own or bool(theirs) != (partner is not None):
            wanted = "the updates of both stages that share a tensor" if partner else "its own updates only"
            raise RequestError(f"stage {index}: {len(own)} own updates, {len(theirs)} others, wanted {wanted}")
        tokens, other = sum(item.tokens for item in own), sum(item.tokens for item in theirs)
        if theirs and tokens != other:
            raise UpdateError(f"stage {index}: its updates are over {tokens} tokens, the others over {other}")
        layout = self._layouts[index]
        mine = (decode(item, layout, self.spec) for item in own)
        others = (decode(item, partner.layout, self.spec) for item in theirs if partner)
        return step.mean(mine, others, whole or tokens, partner, layout.parameters)


def decode(item: Contribution, layout: Layout, spec: TrainingSpec) -> codec.Update:
    """Read and decode a stage's update strictly.

    Raises:
        UpdateError: not well-formed, not finite, or larger than so many tokens' gradients come to. DiskError.
    """
    path, size = Path(item.path), layout.parameters
    limit = codec.encoded_bytes(spec.codec, size)
    try:
        update = codec.decode(read_blob(path, limit, "update"), spec.codec, size)
        outer.check_norm(update, spec.max_update_rms * item.tokens)
    except BlobError as exc:
        raise UpdateError(f"update {path.name}: oversize, expected {limit} bytes") from exc
    except UpdateError as exc:
        raise UpdateError(exc.message.replace("update", f"update {path.name}", 1)) from exc
    return update

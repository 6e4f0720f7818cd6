"""A replica of an expert shard: computes its experts' outputs and gradients, and sums its parameters' gradients.

A forward call leaves nothing behind. A backward call recomputes the outputs and adds the parameters' gradients of the
SUM of token losses to one fp32 accumulator, once for each (microbatch, layer): the same call again gets the same reply
and adds nothing, another one in its place is refused until the first is undone. What a round added up is its
manifest: the microbatches, and of each the layers in which its tokens chose experts of this shard.

Shapes: P parameters of the shard, S token-expert pairs of a call, D hidden size.

IO: writes updates and states into its own folder, each whole or absent; the rest is pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from p2p_llm_forge.codec import Update
from p2p_llm_forge.errors import RequestError, UpdateError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages.experts.call import Call, check, check_gradient
from p2p_llm_forge.stages.experts.fused import Fused
from p2p_llm_forge.stages.experts.groups import Groups
from p2p_llm_forge.stages.experts.held import Held
from p2p_llm_forge.stages.experts.parts import Part
from p2p_llm_forge.stages.experts.passes import ExpertPasses
from p2p_llm_forge.state import State


@dataclass(frozen=True, kw_only=True)
class Tag:
    """What a call belongs to."""

    round: int
    """The round."""
    microbatch: int
    """Its number within the round."""
    state: str
    """Id of the shard's state that the driver takes this replica to hold."""
    tokens: int
    """Valid tokens of the microbatch."""


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A backward call that is in the accumulator."""

    call: Call
    gradient_SD: Tensor
    reply_SD: Tensor

    @property
    def held_bytes(self) -> int:
        return 3 * self.reply_SD.nbytes

    def is_of(self, call: Call, gradient_SD: Tensor) -> bool:
        """Whether this is the same call again."""
        return (
            (self.call.experts, self.call.counts) == (call.experts, call.counts)
            and torch.equal(self.call.tokens_SD, call.tokens_SD)
            and torch.equal(self.gradient_SD, gradient_SD)
        )


class ExpertShard:
    """One replica of one group; belongs to one thread. Nothing changes when a method raises."""

    def __init__(
        self, *, part: Part, group: int, groups: Groups, fused: Sequence[Fused], state: State, spec: TrainingSpec,
        folder: Path, room_bytes: int, device: torch.device,
    ) -> None:  # fmt: skip
        """Take over a state of the shard.

        Args:
            room_bytes: most bytes of tokens, gradients and replies that are kept until the round ends.
        """
        self.held = Held(part=part, state=state, spec=spec, folder=folder)
        self.first, self.last = groups.span(group)
        self.room_bytes, self.round = room_bytes, 0
        self._fused = tuple(fused)
        self._passes = ExpertPasses(part=part, span=groups.span(group), fused=fused, device=device)
        self._passes.take(state.weights_P)
        self._sum_P = self._passes.zeros()
        self._done: dict[int, dict[int, _Done]] = {}
        self._closed = True

    @property
    def held_bytes(self) -> int:
        """What the round's calls take until it ends."""
        return sum(done.held_bytes for layers in self._done.values() for done in layers.values())

    @property
    def manifest(self) -> dict[int, frozenset[int]]:
        """What is in the accumulator: the layers of each microbatch."""
        return {microbatch: frozenset(layers) for microbatch, layers in sorted(self._done.items())}

    def open(self, round_number: int) -> None:
        """Begin a round with nothing added up."""
        self.round, self._closed = round_number, False
        self._sum_P.zero_()
        self._done = {}

    def forward(self, tag: Tag, call: Call) -> Tensor:
        """The outputs of the call's experts, fp32 [S, D] on the CPU.

        Raises:
            RequestError: another round or state, or a call that this shard cannot serve. UpdateError: diverged.
        """
        where = self._admit(tag, call)
        outputs_SD = self._passes.forward(call)
        if not is_finite(outputs_SD):
            raise UpdateError(f"{where}: the outputs are not finite, the training diverged")
        return outputs_SD

    def backward(self, tag: Tag, call: Call, gradient_SD: Tensor) -> Tensor:
        """The gradients of the call's tokens, fp32 [S, D] on the CPU; adds up those of the parameters.

        Args:
            gradient_SD: of the outputs, fp32.

        Raises:
            RequestError: as for `forward`, after the round's update, or with no room left. UpdateError: diverged.
        """
        where = self._admit(tag, call)
        check_gradient(call, gradient_SD, self.held.part.what)
        done = self._done.get(tag.microbatch, {}).get(call.layer)
        if done is not None:
            if not done.is_of(call, gradient_SD):
                raise RequestError(f"{where}: another backward call of this microbatch is added up; undo it first")
            return done.reply_SD
        if self._closed:
            raise RequestError(f"{where}: the update of round {self.round} is written; wait for the next round")
        size = 3 * call.tokens_SD.nbytes
        if (held := self.held_bytes) + size > self.room_bytes:
            raise RequestError(f"{where}: BUSY: {held} bytes are held, {size} more are over {self.room_bytes}")
        found = self._passes.backward(call, gradient_SD)
        if not all(is_finite(values) for values in found.values()):
            raise UpdateError(f"{where}: the gradients are not finite, the training diverged")
        self._passes.add(self._sum_P, call.layer, found, sign=1)
        done = _Done(call=call, gradient_SD=gradient_SD, reply_SD=found.tokens_SD)
        self._done.setdefault(tag.microbatch, {})[call.layer] = done
        return found.tokens_SD

    def undo(self, microbatch: int) -> None:
        """Take a microbatch out of the accumulator; nothing where it is not in it. Raises RequestError once written."""
        self._keep_layers(microbatch, ())

    def freeze(self, manifest: Mapping[int, Collection[int]]) -> tuple[int, ...]:
        """Undo what is not in the manifest.

        Args:
            manifest: by microbatch, the layers in which its tokens chose experts of this group; none is possible.

        Returns:
            The microbatches of which a layer is lacking, ascending.
        """
        for microbatch in list(self._done):
            self._keep_layers(microbatch, manifest.get(microbatch, ()))
        held = self.manifest
        return tuple(sorted(key for key, layers in manifest.items() if set(layers) - held.get(key, frozenset())))

    def _keep_layers(self, microbatch: int, layers: Collection[int]) -> None:
        held = self._done.get(microbatch, {})
        for layer in [layer for layer in held if layer not in layers]:
            if self._closed:
                raise RequestError(f"{self.held.part.what}: the update of round {self.round} is written, nothing is undone now")
            found = self._passes.backward(held[layer].call, held[layer].gradient_SD)
            self._passes.add(self._sum_P, layer, found, sign=-1)
            del held[layer]
        if not held:
            self._done.pop(microbatch, None)

    def write_update(self) -> Path:
        """Encode what is added up; the round takes no more after it. Raises UpdateError, DiskError."""
        path = self.held.write_update(self._sum_P)
        self._closed = True
        return path

    def norm(self, updates: Sequence[Update], tokens: int) -> float:
        """As `Held.norm`."""
        return self.held.norm(updates, tokens)

    def apply(self, round_number: int, updates: Sequence[Update], tokens: int, norms: Sequence[float]) -> str:
        """As `Held.apply`; what the round added up is forgotten."""
        name = self.held.apply(round_number, updates, tokens, norms)
        self._passes.take(self.held.state.weights_P)
        self._closed, self._done = True, {}
        return name

    def _admit(self, tag: Tag, call: Call) -> str:
        """Refuse what is not for this state, round and shard; returns where it is, for messages."""
        if tag.state != self.held.state_id or tag.round != self.round:
            raise RequestError(
                f"{self.held.part.what}: STALE: round {tag.round} on state {tag.state[:16]}, "
                f"held are round {self.round} and state {self.held.state_id[:16]}"
            )
        check(call, self._fused, first=self.first, last=self.last)
        return f"{self.held.part.what}, layer {call.layer}, microbatch {tag.microbatch}"

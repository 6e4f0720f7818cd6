"""A stage's passes on what travels: bytes are checked and decoded, the pass runs under its seed, and what it found is
looked at before anybody uses it.

Shapes: B sequences of a microbatch, L tokens of a sequence, D hidden size.

Pure: but for the module that `Passes` holds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from p2p_llm_forge.errors import ActivationError
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages import activations
from p2p_llm_forge.stages.activations import NO_TARGET
from p2p_llm_forge.stages.passes import Backward, Passes
from p2p_llm_forge.stages.seeds import stage_seed
from p2p_llm_forge.stages.tags import Part
from p2p_llm_forge.state import Layout

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_MOST_NATS = 1e6


class Work:
    """One stage's. Its methods raise ActivationError where what was given, or what it leads to, cannot be used."""

    def __init__(self, part: Part, passes: Passes, layout: Layout, spec: TrainingSpec) -> None:
        self._part, self._passes = part, passes
        self._largest_rms = spec.max_update_rms * math.sqrt(layout.parameters)

    def forward(self, round_number: int, microbatch: int, x: Buffer, *, keep: bool) -> bytes:
        """The stage's output; with `keep` its backward may be spared the forward pass."""
        seed = self._seed(round_number, microbatch)
        out = self._passes.forward(self._input(x), seed, microbatch if keep else None)
        try:
            return activations.encode(out, self._part.activations)
        except ActivationError:
            self._passes.forget(microbatch)
            raise

    def backward(
        self, round_number: int, microbatch: int, x: Buffer, gradient: Buffer, tokens: int, *, kept: bool = False
    ) -> Backward:
        """The gradients of a microbatch, finite and within `training.max_update_rms` for so many tokens.

        Args:
            kept: whether this input is the one that forward was given last.
        """
        part, values, seed = self._part, self._input(x), self._seed(round_number, microbatch)
        if part.last:
            targets = self._tokens(gradient, "targets", NO_TARGET)
            if (counted := int((targets != NO_TARGET).sum())) != tokens:
                raise ActivationError(f"targets: got {counted} of them, the tag says {tokens}")
            found = self._passes.loss(values, seed, targets)
        else:
            shape = (part.sequences, part.length, part.width)
            given = activations.decode(gradient, part.activations, shape, "gradient")
            found = self._passes.backward(values, seed, given, microbatch if kept else None)
        norm, limit = found.norm(), self._largest_rms * tokens
        if not norm <= limit:
            raise ActivationError(
                f"microbatch {microbatch}: its gradient's norm is {norm:.6g}, wanted at most {limit:.6g} "
                "(training.max_update_rms)"
            )
        return found

    def evaluate(self, x: Buffer, targets: Buffer | None) -> tuple[bytes, float, int]:
        """Without dropout: the output; or of the last stage the mean loss in nats, and over how many targets."""
        values = self._input(x)
        if not self._part.last:
            return activations.encode(self._passes.evaluate(values), self._part.activations), 0.0, 0
        wanted = self._tokens(b"" if targets is None else targets, "targets", NO_TARGET)
        counted = int((wanted != NO_TARGET).sum())
        loss = float(self._passes.evaluate(values, wanted)) / max(counted, 1)
        if not 0.0 <= loss < _MOST_NATS:
            raise ActivationError(f"evaluate: the loss of this state is {loss}")
        return b"", loss, counted

    def answer(self, found: Backward) -> bytes:
        """The gradient of the input; nothing where the input is tokens."""
        return b"" if found.input_BLD is None else activations.encode(found.input_BLD, self._part.activations)

    def _seed(self, round_number: int, microbatch: int) -> int:
        return stage_seed(self._part.seed, round_number, microbatch, self._part.index)

    def _input(self, x: Buffer) -> Tensor:
        part = self._part
        if part.first:
            return self._tokens(x, "input", 0)
        return activations.decode(x, part.activations, (part.sequences, part.length, part.width), "input")

    def _tokens(self, data: Buffer, what: str, lowest: int) -> Tensor:
        part = self._part
        tokens_BL = activations.decode(data, "tokens", (part.sequences, part.length), what)
        least, most = int(tokens_BL.min()), int(tokens_BL.max())
        if least < lowest or most >= part.vocabulary:
            raise ActivationError(f"{what}: got tokens {least} … {most}, wanted {lowest} … {part.vocabulary - 1}")
        return tokens_BL

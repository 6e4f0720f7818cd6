"""A stage's passes: forward under a seed, and backward, which runs forward again under the same seed.

What a few forward passes went through may be kept, so that their backward need not run forward again; the values are
the same either way, so it hangs on nothing but memory.

A backward pass returns the gradients of the parameters instead of adding them up anywhere, so that whoever asked looks
at them first, and one that fails has changed nothing. Gradients are of the SUM of token losses.

Shapes: B sequences of a microbatch, L tokens of a sequence, D hidden size, V vocabulary, P parameters of the stage.

IO: none; holds the module it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2p_llm_forge.flat import flatten, precision
from p2p_llm_forge.stages.activations import NO_TARGET
from p2p_llm_forge.state import Layout


@dataclass(frozen=True, kw_only=True)
class Backward:
    """What a backward pass found."""

    gradients: Sequence[Tensor | None]
    """Of each parameter in the order of the state; None where it had no part in the pass."""
    input_BLD: Tensor | None
    """Gradient of the input, fp32 on the CPU; None of tokens."""
    losses_B: Tensor | None = None
    """Mean loss of each sequence in nats, where the stage has one; 0 where there was nothing to predict."""

    def norm(self) -> float:
        """The Euclidean norm of all gradients together; infinite or not a number where one of them is."""
        norms = [torch.linalg.vector_norm(part) for part in self.gradients if part is not None]
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


class Passes:
    """Owns a stage's module, in training mode, whose parameters are views of one vector."""

    def __init__(
        self, stage: nn.Module, layout: Layout, *, first: bool, setting: str, room: int, device: torch.device
    ) -> None:
        """Take over the module.

        Args:
            first: whether it takes tokens.
            setting: `training.precision`.
            room: so many forward passes are kept.
        """
        self._stage = stage.to(device).train()
        self._first, self._room, self._device = first, room, device
        self._walked: dict[int | None, tuple[Tensor, Tensor]] = {}  # Input and output of what is kept, oldest first.
        self._local_P = flatten(stage, layout, device)
        named = dict(stage.named_parameters())
        self._parameters = [named[name] for name in layout.names]
        self._spans = list(layout.spans())
        self._precision = precision(setting, device)

    def take(self, weights_P: Tensor) -> None:
        """Go on with these weights."""
        self._walked.clear()
        self._local_P.copy_(weights_P)

    def forward(self, x: Tensor, seed: int, keep: int | None = None) -> Tensor:
        """The stage's output, fp32 on the CPU, for hidden values fp32 [B, L, D] or tokens int64 [B, L].

        Args:
            keep: the number under which `backward` finds it again, if it is to be kept.
        """
        if keep is None or not self._room:
            with torch.no_grad():
                return self._run(x.to(self._device), seed).cpu()
        x = self._input(x)
        out = self._run(x, seed)
        self._walked.pop(keep, None)
        while len(self._walked) >= self._room:
            self._walked.pop(next(iter(self._walked)))
        self._walked[keep] = (x, out)
        return out.detach().cpu()

    @torch.no_grad()
    def evaluate(self, x: Tensor, targets_BL: Tensor | None = None) -> Tensor:
        """The output without dropout; of the last stage the sum of its targets' losses in nats, fp32 []."""
        self._stage.eval()
        try:
            with self._precision:
                out: Tensor = self._stage(x.to(self._device))
        finally:
            self._stage.train()
        out = out.float()
        if targets_BL is None:
            return out.cpu()
        targets = targets_BL.to(self._device).flatten()
        return F.cross_entropy(out.flatten(0, 1), targets, ignore_index=NO_TARGET, reduction="sum").cpu()

    def forget(self, kept: int | None = None) -> None:
        """Keep this forward pass no longer, or none at all."""
        if kept is None:
            self._walked.clear()
        self._walked.pop(kept, None)

    def backward(self, x: Tensor, seed: int, gradient: Tensor, kept: int | None = None) -> Backward:
        """From the gradient of the output, fp32 of its shape.

        Args:
            kept: the number of a forward pass of the same input under the same seed, which may be kept still.
        """
        walked = None if kept is None else self._walked.pop(kept, None)
        if walked is None:
            x = self._input(x)
            walked = x, self._run(x, seed)
        return self._gradients(*walked, gradient.to(self._device))

    def loss(self, x: Tensor, seed: int, targets_BL: Tensor) -> Backward:
        """From the targets: of the last stage; `NO_TARGET` where there is nothing to predict."""
        x, targets = self._input(x), targets_BL.to(self._device)
        logits_BLV = self._run(x, seed)
        losses = F.cross_entropy(
            logits_BLV.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="none"
        ).view(targets.shape)
        found = self._gradients(x, losses.sum(), None)
        counted_B = (targets != NO_TARGET).sum(dim=1).clamp(min=1)
        means_B = (losses.detach().sum(dim=1) / counted_B).cpu()
        return Backward(gradients=found.gradients, input_BLD=found.input_BLD, losses_B=means_B)

    def add(self, sum_P: Tensor, found: Backward, sign: int) -> None:
        """Add a pass's gradients to this vector, or with sign -1 take them out again."""
        for (start, end, _), part in zip(self._spans, found.gradients, strict=True):
            if part is not None:
                here = sum_P[start:end]
                (here.add_ if sign > 0 else here.sub_)(part.reshape(-1))

    def zeros(self) -> Tensor:
        """A vector of all parameters, where the parameters are."""
        return torch.zeros_like(self._local_P)

    def _run(self, x: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        with self._precision:
            out: Tensor = self._stage(x)
        return out.float()

    def _input(self, x: Tensor) -> Tensor:
        return x.to(self._device) if self._first else x.to(self._device).detach().requires_grad_()

    def _gradients(self, x: Tensor, out: Tensor, gradient: Tensor | None) -> Backward:
        wanted = self._parameters if self._first else [*self._parameters, x]
        found = torch.autograd.grad([out], wanted, None if gradient is None else [gradient], allow_unused=True)
        if self._first:
            return Backward(gradients=found, input_BLD=None)
        own = found[-1]
        return Backward(gradients=found[:-1], input_BLD=torch.zeros_like(x).cpu() if own is None else own.cpu())

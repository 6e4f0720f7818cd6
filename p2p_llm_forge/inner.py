"""One member's round: AdamW steps on its own copy of the weights, or in mode synchronous one gradient and no step.

The model's parameters are views of one flat vector in the order of the state, so taking over the shared weights is one
copy and the update one subtraction. Losses stay on the device until the round ends or a progress report is due.

Shapes: P parameters, B sequences of a micro batch, L tokens of a sequence.

IO: none but the clock; changes the model it owns.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2p_llm_forge import microbatch
from p2p_llm_forge.flat import flat_gradients, flatten, precision
from p2p_llm_forge.microbatch import Choice
from p2p_llm_forge.schedule import learning_rate
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.state import Layout

REPORT_S = 0.25

Read = Callable[[int, int], Tensor]
"""(first slot within the range, count) → int64 tokens [count, L + 1] on the CPU."""
Report = Callable[[int, int, int, float], None]
"""(steps done, steps planned, tokens, loss of the last step in nats)."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a member did in one round."""

    steps: int
    """AdamW steps taken."""
    losses: list[float]
    """Mean loss of each slot used, in slot order, in nats."""
    seconds: float
    """Time the steps took."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """AdamW's state, tensor by tensor in the order of the state."""

    first: Sequence[Tensor]
    """Means of the gradients."""
    second: Sequence[Tensor]
    """Means of their squares."""
    steps_T: Tensor
    """Steps that each tensor has taken; 0 where it never had a gradient."""

    @classmethod
    def of(cls, first_P: Tensor, second_P: Tensor, steps_T: Tensor, layout: Layout) -> Moments:
        """From flat vectors, not copied."""
        sizes = [math.prod(shape) for shape in layout.shapes]
        return cls(first=torch.split(first_P, sizes), second=torch.split(second_P, sizes), steps_T=steps_T)


class InnerTrainer:
    """Owns the local model and its AdamW state, which lives on between rounds."""

    def __init__(self, model: nn.Module, layout: Layout, spec: TrainingSpec, device: torch.device) -> None:
        self.model, self.spec, self.device = model.to(device), spec, device
        self.local_P = flatten(model, layout, device)
        self._gradient_P = flat_gradients(self.model, layout, self.local_P) if spec.mode == "synchronous" else None
        named = dict(model.named_parameters())
        self._parameters = [named[name] for name in layout.names]
        self._precision = precision(spec.precision, device)
        self.micro = spec.batch_size if spec.micro_batch_size == "auto" else spec.micro_batch_size
        """Sequences that go through the model at once; fewer after memory ran out."""
        self.reset()

    def reset(self) -> None:
        """Forget the AdamW state."""
        matrices = [parameter for parameter in self.model.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self.model.parameters() if parameter.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.spec.learning_rate,
            betas=self.spec.betas,
            weight_decay=self.spec.weight_decay,
            fused=True,
        )

    def moments(self) -> Moments | None:
        """The AdamW state as it is, not copied; None before the first step."""
        states = [self._optimizer.state.get(parameter, {}) for parameter in self._parameters]
        if not any(states):
            return None
        blank = [
            torch.zeros(()) if state else torch.zeros_like(p) for state, p in zip(states, self._parameters, strict=True)
        ]
        return Moments(
            first=[state.get("exp_avg", zero) for state, zero in zip(states, blank, strict=True)],
            second=[state.get("exp_avg_sq", zero) for state, zero in zip(states, blank, strict=True)],
            steps_T=torch.stack([torch.as_tensor(state.get("step", 0.0)).float().cpu() for state in states]),
        )

    def restore(self, moments: Moments) -> None:
        """Go on with these in place of the AdamW state; they belong to the optimizer from now on."""
        self.reset()
        told = zip(self._parameters, moments.first, moments.second, moments.steps_T, strict=True)
        for parameter, first, second, step in told:
            if step > 0:
                self._optimizer.state[parameter] = {
                    "step": step.clone().to(parameter.device),
                    "exp_avg": first.view(parameter.shape).to(parameter.device),
                    "exp_avg_sq": second.view(parameter.shape).to(parameter.device),
                }

    def take(self, weights_P: Tensor) -> None:
        """Set the local weights to the shared ones."""
        self.local_P.copy_(weights_P)

    def change(self, weights_P: Tensor) -> Tensor:
        """What the round came to, fp32 [P] on the CPU: Δ = shared − local; synchronous: the sum of gradients."""
        if self._gradient_P is not None:
            return self._gradient_P.to("cpu", copy=True)
        return weights_P - self.local_P.cpu()

    def train(
        self, read: Read, *, slots: int, round_number: int, seed: int, deadline_s: float,
        stopped: Callable[[], bool], report: Report,
    ) -> RoundResult:  # fmt: skip
        """Up to `inner_steps` batches over `slots` slots; ends after the one in which time is up or `stopped()`.

        Args:
            deadline_s: on `time.monotonic()`.
        """
        batch = self.spec.batch_size
        steps = min(self.spec.inner_steps, math.ceil(slots / batch))
        losses: list[Tensor] = []
        started = reported = time.monotonic()
        torch.manual_seed(_seed(seed, round_number))
        self.model.train()
        if self._gradient_P is not None:
            self._gradient_P.zero_()
        step = 0
        while step < steps and not stopped() and time.monotonic() < deadline_s:
            tokens = read(step * batch, min(batch, slots - step * batch))
            if self._gradient_P is None:
                self._set_learning_rate(round_number - 1 + step / steps)
                losses.append(self._step(tokens))
            elif (added := self._try(tokens, float(tokens.shape[1] - 1))) is not None:
                losses.append(added)
            else:  # half of this batch is in the sum already: add up anew, in smaller parts
                self._gradient_P.zero_()
                losses, step = [], 0
                continue
            step += 1
            now = time.monotonic()
            if now - reported >= REPORT_S or step == steps:
                reported = now
                done = sum(len(part) for part in losses) * (tokens.shape[1] - 1)
                report(step, steps, done, float(losses[-1].mean()))
        if self._gradient_P is None:
            self._optimizer.zero_grad(set_to_none=True)
        values = torch.cat(losses).tolist() if losses else []
        return RoundResult(steps=step, losses=values, seconds=time.monotonic() - started)

    def _step(self, tokens: Tensor) -> Tensor:
        """One AdamW step; returns the loss of each sequence, on the device."""
        loss_B = None
        while loss_B is None:
            self._optimizer.zero_grad(set_to_none=True)
            loss_B = self._try(tokens, 1.0 / len(tokens))
        if self.spec.grad_clip > 0.0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.grad_clip)
        self._optimizer.step()
        return loss_B

    def fit(self, *, sequence_length: int, each_bytes: int, free_bytes: int) -> Choice:
        """Choose how many sequences go through the model at once, by trying; see `microbatch.choose`."""
        owned = self._gradient_P is not None

        def once(sequences: int) -> None:
            self._accumulate(torch.zeros(sequences, sequence_length + 1, dtype=torch.int64), 1.0, sequences)

        try:
            self.model.train()
            choice = microbatch.choose(
                once, batch=self.spec.batch_size, each_bytes=each_bytes, free_bytes=free_bytes,
                gradient_bytes=0 if owned else 4 * self.local_P.numel(), device=self.device,
            )  # fmt: skip
        finally:
            self._optimizer.zero_grad(set_to_none=not owned)
        self.micro = choice.sequences
        return choice

    def _try(self, tokens: Tensor, weight: float) -> Tensor | None:
        """`_accumulate`; None where memory ran out: the gradients are of no use then, and the next parts smaller."""
        try:
            return self._accumulate(tokens, weight, self.micro)
        except (RuntimeError, MemoryError) as exc:
            self._halve(exc, len(tokens))
        microbatch.free_again(self.device)
        return None

    def _halve(self, exc: RuntimeError | MemoryError, sequences: int) -> None:
        """Go on with smaller parts after memory ran out; raises the error if it is another one, or nothing helps."""
        used = min(self.micro, sequences)
        if used == 1 or not microbatch.out_of_memory(exc):
            raise exc
        self.micro = -(-used // 2)

    def _accumulate(self, tokens: Tensor, weight: float, micro: int) -> Tensor:
        """Add `weight` times each sequence's gradient to those held; returns the losses, on the device."""
        losses: list[Tensor] = []
        for part in torch.split(tokens.to(self.device, non_blocking=True), micro):
            loss_B = self.sequence_losses(part)
            (loss_B.sum() * weight).backward()  # type: ignore[no-untyped-call]
            losses.append(loss_B.detach())
        return losses[0] if len(losses) == 1 else torch.cat(losses)

    def sequence_losses(self, tokens_BL: Tensor) -> Tensor:
        """Mean loss of each sequence [B] for tokens [B, L + 1] on the device."""
        with self._precision:
            logits = self.model(input_ids=tokens_BL[:, :-1], use_cache=False).logits
        targets = tokens_BL[:, 1:]
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view(targets.shape).mean(dim=1)

    @torch.no_grad()
    def evaluate(self, read: Read, sequences: int) -> float:
        """Mean loss in nats over held-out sequences, with the weights that the model holds now."""
        self.model.eval()
        total, at = 0.0, 0
        while at < sequences:
            tokens = read(at, min(self.micro, sequences - at)).to(self.device)
            try:
                total += float(self.sequence_losses(tokens).sum())
                at += len(tokens)
            except (RuntimeError, MemoryError) as exc:
                self._halve(exc, len(tokens))
        return total / sequences

    def _set_learning_rate(self, progress: float) -> None:
        rate = learning_rate(self.spec, progress)
        for group in self._optimizer.param_groups:
            group["lr"] = rate


def _seed(seed: int, round_number: int) -> int:
    digest = hashlib.sha256(f"p2p-llm-forge/dropout/v1\n{seed} {round_number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")

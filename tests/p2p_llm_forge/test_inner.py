"""One member's round with fewer slots than a whole quota: how many steps it takes, on what, at which learning rates.

IO: none but the clock.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from p2p_llm_forge.inner import InnerTrainer, RoundResult
from p2p_llm_forge.schedule import learning_rate
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.state import Layout

SPEC = TrainingSpec(rounds=10, inner_steps=5, batch_size=4, warmup_rounds=2, learning_rate=0.1)
VOCABULARY = 8


class Tiny(nn.Module):
    """A bigram model that looks like one of `transformers`."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table(input_ids))


class Recorder(InnerTrainer):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        model = Tiny()
        super().__init__(model, Layout.of(model, SPEC.outer), SPEC, torch.device("cpu"))
        self.rates: list[float] = []
        self.reads: list[tuple[int, int]] = []

    def _step(self, tokens: Tensor) -> Tensor:
        self.rates.append(float(self._optimizer.param_groups[0]["lr"]))
        return super()._step(tokens)

    def go(self, slots: int, *, round_number: int = 1) -> RoundResult:
        """Train a round with so many slots."""

        def read(first: int, count: int) -> Tensor:
            self.reads.append((first, count))
            return torch.zeros(count, 9, dtype=torch.int64)

        return self.train(
            read, slots=slots, round_number=round_number, seed=0, deadline_s=time.monotonic() + 600,
            stopped=lambda: False, report=lambda *_: None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("slots", "reads"),
    [
        (1, [(0, 1)]),
        (4, [(0, 4)]),
        (9, [(0, 4), (4, 4), (8, 1)]),
        (20, [(0, 4), (4, 4), (8, 4), (12, 4), (16, 4)]),
        (99, [(0, 4), (4, 4), (8, 4), (12, 4), (16, 4)]),
    ],
)
def test_a_quota_is_worked_off_batch_by_batch_and_never_beyond_the_inner_steps(
    slots: int, reads: list[tuple[int, int]]
) -> None:
    trainer = Recorder()
    done = trainer.go(slots)
    assert trainer.reads == reads
    assert done.steps == len(reads)
    assert len(done.losses) == min(slots, SPEC.inner_steps * SPEC.batch_size)


def test_every_member_goes_through_the_same_stretch_of_the_schedule_in_however_many_steps() -> None:
    for slots, steps in ((4, 1), (8, 2), (20, 5)):
        for number in (1, 2, 3, 10):
            trainer = Recorder()
            trainer.go(slots, round_number=number)
            wanted = [learning_rate(SPEC, number - 1 + step / steps) for step in range(steps)]
            assert trainer.rates == pytest.approx(wanted)

"""Sequences at once: as many as fit, fewer after memory ran out, and the same update either way."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2p_llm_forge import memory, microbatch, model
from p2p_llm_forge.inner import InnerTrainer
from p2p_llm_forge.settings import OuterSpec, TrainingSpec
from p2p_llm_forge.state import Layout, State
from tests.p2p_llm_forge.test_model import config

CPU = torch.device("cpu")
MIB = 1 << 20


@given(st.integers(1, 10_000), st.integers(0, 1 << 40), st.integers(0, 1 << 44))
def test_the_largest_halving_that_fits_is_chosen(batch: int, each: int, allowed: int) -> None:
    size = microbatch.largest(batch, each, allowed)
    assert size in microbatch.halvings(batch)
    assert size == 1 or size * each <= allowed
    assert all(larger * each > allowed for larger in microbatch.halvings(batch) if larger > size)


class Machine:
    """Takes memory as it is told, of which the real one knows nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, each: int, room: int = 1 << 40) -> None:
        self.each, self.room, self.runs = each, room, list[int]()
        self._took = 0
        monkeypatch.setattr(microbatch, "_peak", lambda device, *, anew: 0 if anew else self._took)

    def run(self, sequences: int) -> None:
        self.runs.append(sequences)
        self._took = self.each * sequences
        if self._took > self.room:
            raise torch.OutOfMemoryError("out of memory")

    def choose(self, *, free: int, each: int = 1, gradients: int = 0, batch: int = 16) -> microbatch.Choice:
        return microbatch.choose(
            self.run, batch=batch, each_bytes=each, free_bytes=free, gradient_bytes=gradients, device=CPU
        )


def test_what_a_pass_takes_is_believed_before_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, each=100 * MIB)
    choice = machine.choose(free=1000 * MIB)
    assert (choice.sequences, choice.measured_bytes) == (8, 800 * MIB)
    assert machine.runs == [1, 8], "one sequence first: the whole batch could have taken the machine down"


def test_the_estimate_counts_where_one_sequence_is_too_small_to_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Machine(monkeypatch, each=0).choose(free=1000 * MIB, each=400 * MIB).sequences == 2


def test_a_pass_that_takes_more_than_was_thought_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, each=60 * MIB)
    assert machine.choose(free=300 * MIB).sequences == 4
    assert machine.runs == [1, 16, 8, 4]


def test_a_pass_that_runs_out_of_memory_is_halved_and_gradients_are_no_activations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, each=7 * MIB, room=30 * MIB)
    assert machine.choose(free=1000 * MIB).sequences == 4
    assert Machine(monkeypatch, each=100 * MIB).choose(free=1000 * MIB, gradients=95 * MIB, batch=1).measured_bytes == (
        5 * MIB
    )


def test_where_not_even_one_sequence_fits_the_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Machine(monkeypatch, each=7 * MIB, room=1 * MIB).choose(free=1000 * MIB)


def test_another_error_than_a_lack_of_memory_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, each=1)

    def broken(sequences: int) -> None:
        if sequences > 1:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        microbatch.choose(broken, batch=4, each_bytes=1, free_bytes=1 << 30, gradient_bytes=0, device=CPU)
    assert machine.runs == []


@pytest.mark.parametrize(
    ("exc", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(exc: BaseException, is_it: bool) -> None:
    assert microbatch.out_of_memory(exc) is is_it


def test_the_peak_of_a_pass_is_measured_on_this_machine() -> None:
    def run(sequences: int) -> None:
        torch.ones(sequences * 8 * MIB).sum()

    run(1)
    before = microbatch._peak(CPU, anew=True)
    assert 120 * MIB <= microbatch._measured(run, 4, before, CPU) <= 200 * MIB
    assert 24 * MIB <= microbatch._measured(run, 1, before, CPU) <= 80 * MIB, "what a larger pass left does not count"


# ---------------------------------------------------------------- in a training


def trainer(mode: str = "local", **settings: Any) -> tuple[InnerTrainer, torch.Tensor]:
    """A trainer of a tiny model, and the weights that it starts from."""
    fields: dict[str, Any] = {"inner_steps": 2, "batch_size": 4, "warmup_rounds": 0, "rounds": 10, **settings}
    spec = TrainingSpec.model_validate({"mode": mode, **fields})
    built = model.build(config(), 5)
    layout = Layout.of(built, OuterSpec())
    return InnerTrainer(built, layout, spec, CPU), State.of_model(built, layout).weights_P.clone()


def run(inner: InnerTrainer) -> Any:
    tokens = torch.randint(0, 50, (8, 13), generator=torch.Generator().manual_seed(1))
    return inner.train(
        lambda first, count: tokens[first : first + count], slots=8, round_number=1, seed=0, deadline_s=float("inf"),
        stopped=lambda: False, report=lambda *_: None,
    )  # fmt: skip


def short_of_memory(inner: InnerTrainer, monkeypatch: pytest.MonkeyPatch, most: int, from_call: int = 1) -> list[int]:
    """From some call on the machine has memory for `most` sequences; returns the calls' sequences."""
    losses_of, calls = inner.sequence_losses, list[int]()

    def sequence_losses(tokens_BL: torch.Tensor) -> torch.Tensor:
        calls.append(len(tokens_BL))
        losses_B = losses_of(tokens_BL)
        if len(tokens_BL) > most and len(calls) >= from_call:
            losses_B.sum().backward()  # type: ignore[no-untyped-call]  # what failed has left its gradients
            raise torch.OutOfMemoryError("out of memory")
        return losses_B

    monkeypatch.setattr(inner, "sequence_losses", sequence_losses)
    return calls


@pytest.mark.parametrize("mode", ["local", "synchronous"])
@pytest.mark.parametrize(("most", "from_call"), [(2, 1), (1, 1), (2, 2)])
def test_a_round_goes_on_in_smaller_parts_and_counts_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, mode: str, most: int, from_call: int
) -> None:
    calm, start = trainer(mode)
    short, _ = trainer(mode)
    wanted = run(calm)
    short_of_memory(short, monkeypatch, most, from_call)
    got = run(short)
    assert short.micro == most
    assert (got.steps, len(got.losses)) == (wanted.steps, len(wanted.losses))
    assert got.losses == pytest.approx(wanted.losses, abs=1e-5)
    torch.testing.assert_close(short.change(start), calm.change(start), atol=2e-5, rtol=1e-4)


def test_a_round_fails_where_not_even_one_sequence_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, _ = trainer()
    short_of_memory(inner, monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        run(inner)


def test_the_held_out_loss_is_measured_in_smaller_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, _ = trainer()
    tokens = torch.randint(0, 50, (7, 13), generator=torch.Generator().manual_seed(2))
    wanted = inner.evaluate(lambda first, count: tokens[first : first + count], 7)
    losses_of = inner.sequence_losses

    def sequence_losses(tokens_BL: torch.Tensor) -> torch.Tensor:
        if len(tokens_BL) > 1:
            raise MemoryError
        return losses_of(tokens_BL)

    monkeypatch.setattr(inner, "sequence_losses", sequence_losses)
    assert inner.evaluate(lambda first, count: tokens[first : first + count], 7) == pytest.approx(wanted, abs=1e-6)
    assert inner.micro == 1


@pytest.mark.parametrize("mode", ["local", "synchronous"])
def test_trying_what_fits_leaves_no_trace_in_the_update(mode: str) -> None:
    calm, start = trainer(mode)
    tried, _ = trainer(mode)
    choice = tried.fit(sequence_length=12, each_bytes=1, free_bytes=1 << 30)
    assert choice.sequences == tried.micro == 4
    run(calm), run(tried)
    assert torch.equal(calm.change(start), tried.change(start))


def test_a_member_of_mode_synchronous_needs_no_room_for_steps_of_its_own() -> None:
    shape: dict[str, Any] = {"sequences": 1, "sequence_length": 12, "moments": 2}
    local, shared = (memory.estimate(config(), own_steps=own, **shape) for own in (True, False))
    assert local.weights_bytes - shared.weights_bytes == 8 * local.parameters
    assert local.state_bytes == shared.state_bytes


def test_the_limit_of_the_volunteer_and_what_is_free_both_hold() -> None:
    free = memory.available_bytes()
    assert memory.Room.on(CPU, 1000) == memory.Room(main_bytes=1000, gpu_bytes=None)
    assert memory.Room.on(CPU, 1 << 60).main_bytes <= free + (1 << 30)
    need = memory.Estimate(parameters=1, weights_bytes=10, state_bytes=20, activation_bytes=5)
    assert memory.Room(main_bytes=100, gpu_bytes=None).beside(need) == 70
    assert memory.Room(main_bytes=100, gpu_bytes=50).beside(need) == 40


@pytest.mark.parametrize("value", [0, "all", None, 1.5])
def test_a_micro_batch_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("micro_batch_size")):
        TrainingSpec.model_validate({"micro_batch_size": value})

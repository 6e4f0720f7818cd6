"""Replicas of stages: together they are one process with the same batches, whatever is repeated, undone or lost."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest

from .stage_world import World, distance, lossy

MICROBATCHES = 6

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(world: World, rounds: int, seed: int, *, accidents: bool = True) -> list[list[str]]:
    """Rounds with random replicas; with accidents: repeats, two replicas that did the same, undos, restarts."""
    random, states = Random(seed), []

    def choose(index: int, microbatch: int) -> int:
        return random.randrange(len(world.replicas[index]))

    def repeats() -> bool:
        return accidents and random.random() < 0.3

    for number in range(1, rounds + 1):
        world.begin(number, MICROBATCHES)
        for j in random.sample(range(MICROBATCHES), MICROBATCHES):
            world.drive(number, j, choose, repeats)
        if accidents:
            _accidents(world, number, random)
        world.reconcile(number, random)
        done = [[replica.manifest() for replica in replicas] for replicas in world.replicas]
        for stage in done:
            assert sorted(chain(*stage)) == list(range(MICROBATCHES)), "each exactly once"
        states.append(world.settle(number))
    return states


def _accidents(world: World, number: int, random: Random) -> None:
    """A replica failed over to another one after it had done its part; one is asked to undo; one restarts."""
    index, j = random.randrange(world.stages), random.randrange(MICROBATCHES)
    world.replay(number, index, j, 1 - world.records[index, j].replica)
    index, j = random.randrange(world.stages), random.randrange(MICROBATCHES)
    record = world.records[index, j]
    tag = world.tag(number, index, j)
    for _ in range(2):
        assert world.replicas[index][record.replica].undo(tag, record.x, record.gradient).kind == "done"
    if number % 4 == 0:
        world.lose(random.randrange(world.stages), random.randrange(2))


CASES: list[tuple[str, bool, int]] = [
    ("gpt2", True, 3),
    ("gpt2", False, 2),
    ("llama", True, 2),
    ("llama", False, 3),
]


@pytest.mark.parametrize(("family", "tied", "stages"), CASES)
def test_replicas_equal_one_process_with_the_same_batches(tmp_path: Path, family: str, tied: bool, stages: int) -> None:
    world = World(tmp_path, family=family, tied=tied, stages=stages)
    assert (world.replicas[0][0].held.partner is not None) == tied
    trained(world, 20, seed=stages)
    found = world.weights()
    assert distance(found, world.one_process(20, MICROBATCHES)) <= 1e-5
    assert distance(found, {name: value.detach().reshape(-1) for name, value in world.initial.items()}) > 0.01


def test_accidents_change_nothing_but_roundings(tmp_path: Path) -> None:
    calm, rough = World(tmp_path / "calm", grad_clip=0.1), World(tmp_path / "rough", grad_clip=0.1)
    trained(calm, 5, seed=1, accidents=False)
    trained(rough, 5, seed=1)
    assert distance(rough.weights(), calm.weights()) <= 1e-5


def test_a_small_memory_forgets_and_replays_and_still_counts_each_once(tmp_path: Path) -> None:
    world = World(tmp_path, keep_bytes=12_000)
    trained(world, 5, seed=2)
    assert distance(world.weights(), world.one_process(5, MICROBATCHES)) <= 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_forward_passes_that_are_kept_change_no_bit(tmp_path: Path, precision: str) -> None:
    again = World(tmp_path / "again", precision=precision)
    kept = World(tmp_path / "kept", precision=precision, keep_passes=2)
    assert trained(again, 4, seed=6) == trained(kept, 4, seed=6)


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_rounded_activations_train_nearly_as_well_and_the_same_each_time(tmp_path: Path, kind: Any) -> None:
    exact, rounded, again = (
        World(tmp_path / name, stages=2, kind=each, rounds=15, warmup_rounds=0, learning_rate=0.01)
        for name, each in (("f32", "f32"), ("one", kind), ("two", kind))
    )
    trained(exact, 15, seed=3, accidents=False)
    states = trained(rounded, 15, seed=3, accidents=False)
    assert states[:4] == trained(again, 4, seed=3, accidents=False)
    assert rounded.losses != exact.losses
    last = 3 * MICROBATCHES
    assert mean(rounded.losses[-last:]) < 0.9 * mean(rounded.losses[:last])
    assert abs(mean(rounded.losses[-last:]) - mean(exact.losses[-last:])) < 0.03


def test_what_rounding_took_of_an_update_is_sent_with_the_next(tmp_path: Path) -> None:
    exact, coarse = World(tmp_path / "f32", dropout=0.0), World(tmp_path / "int8", dropout=0.0, **lossy("int8"))
    for world in (exact, coarse):
        trained(world, 5, seed=4, accidents=False)
    assert distance(coarse.weights(), exact.weights()) < 0.02
    owing = [replica._carried_P for replicas in coarse.replicas for replica in replicas]
    assert any(carried is not None and bool(carried.any()) for carried in owing)
    assert all(replica._carried_P is None for replicas in exact.replicas for replica in replicas)

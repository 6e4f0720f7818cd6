"""The slot order is a permutation: nothing twice, nothing left out, the held-out part never touched."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge.data.sampler import Permutation, Sampler


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.text(max_size=8))
def test_a_permutation_hits_everything_once(size: int, label: str) -> None:
    found = Permutation(size=size, label=label)(np.arange(size))
    assert sorted(found.tolist()) == list(range(size))


def test_a_huge_domain_costs_nothing() -> None:
    found = Permutation(size=10**18, label="x")(np.arange(1000))
    assert len(set(found.tolist())) == 1000
    assert int(found.max()) < 10**18


def test_the_order_never_changes() -> None:
    known = [422, 330, 669, 325, 934, 235]
    assert Permutation(size=1000, label="epoch 7 0")(np.arange(6)).tolist() == known


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500), st.integers(0, 60), st.integers(0, 1 << 40), st.integers(0, 3))
def test_an_epoch_reads_every_training_window_once_and_no_held_out_one(
    train: int, held: int, seed: int, epoch: int
) -> None:
    sampler = Sampler(seed=seed, train_slots=train, held_out_slots=held)
    windows = sampler.windows(epoch * train, train).tolist()
    assert len(set(windows)) == train
    assert not set(windows) & set(sampler.held_out(held).tolist())
    assert set(windows) | set(sampler.held_out(held).tolist()) == set(range(train + held))


def test_epochs_differ_and_ranges_agree_with_single_slots() -> None:
    sampler = Sampler(seed=1, train_slots=100, held_out_slots=5)
    assert sampler.windows(0, 100).tolist() != sampler.windows(100, 100).tolist()
    assert sampler.windows(90, 20).tolist() == [int(sampler.windows(slot, 1)[0]) for slot in range(90, 110)]

"""Blob ids, and the plan of whom to ask for which chunk: complete while one provider is honest."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import merkle
from peer.blobs.chunks import CHUNK_BYTES, BlobName, id_of, leaf_of, leaves_of
from peer.blobs.plan import Ask, Plan
from peer.errors import BlobInvalid


def test_an_id_is_the_rfc_6962_root_over_chunks_and_the_length() -> None:
    data = bytes(range(256)) * 5000
    chunks = [data[:CHUNK_BYTES], data[CHUNK_BYTES:]]
    root = merkle.node_hash(merkle.leaf_hash(chunks[0]), merkle.leaf_hash(chunks[1]))
    assert id_of(data) == f"{root.hex()}-{len(data)}"


def test_the_empty_blob_has_the_root_of_the_empty_tree() -> None:
    assert id_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855-0"


@given(st.binary(max_size=100))
def test_a_small_blob_is_its_own_leaf(data: bytes) -> None:
    if data:
        assert leaves_of(data) == [leaf_of(data)] == [merkle.leaf_hash(data)] == [BlobName.parse(id_of(data)).root]


@pytest.mark.parametrize(
    "text", ["", "ab", "ab" * 32, "ab" * 32 + "-", "AB" * 32 + "-1", "ab" * 32 + "-01", "ab" * 32 + "-1\n",
             "../" + "ab" * 32 + "-1", "ab" * 32 + "-9999999999999999"]
)  # fmt: skip
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(BlobInvalid):
        BlobName.parse(text)


def test_only_the_last_chunk_is_short() -> None:
    name = BlobName.parse("ab" * 32 + f"-{2 * CHUNK_BYTES + 5}")
    assert [name.size_of(index) for index in range(name.chunks)] == [CHUNK_BYTES, CHUNK_BYTES, 5]


# ---------------------------------------------------------------- the plan


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 5))
def test_every_chunk_arrives_while_one_provider_is_honest(seed: int, chunks: int, others: int) -> None:
    rng = random.Random(seed)
    names = [f"p{number}" for number in range(others)] + ["honest"]
    plan, now, flying, got = Plan(range(chunks), names), 0.0, [], set[int]()
    faults = {name: rng.choice(["bad", "lacking", "failed", "silent", "fine"]) for name in names[:-1]}
    faults["honest"] = "fine"
    for _ in range(10_000):
        if plan.done:
            break
        flying += [(ask, now) for ask in plan.next(now)]
        assert not plan.stuck
        assert all(sum(ask.provider == name for ask, _ in flying) <= 4 for name in names)
        answerable = [item for item in flying if faults[item[0].provider] != "silent"]
        if answerable:
            item = rng.choice(answerable)
            flying.remove(item)
            answer(plan, item[0], faults[item[0].provider], now, got)
        now += plan.wake_s(now)
    assert plan.done
    assert got == set(range(chunks))


def answer(plan: Plan, ask: Ask, fault: str, now: float, got: set[int]) -> None:
    if fault == "bad":
        plan.bad(ask, "sent nonsense")
    elif fault == "lacking":
        plan.lacking(ask, now)
    elif fault == "failed":
        plan.failed(ask, "reset", now)
    else:
        plan.arrived(ask, now)
        got.add(ask.chunk)


def test_a_provider_that_sent_nonsense_is_never_asked_again() -> None:
    plan = Plan(range(8), ["bad", "good"])
    for ask in plan.next(0.0):
        plan.bad(ask, "nonsense") if ask.provider == "bad" else plan.arrived(ask, 0.0)
    plan.add_providers(["bad"])
    for step in range(1, 100):
        for ask in plan.next(float(step)):
            assert ask.provider == "good"
            plan.arrived(ask, float(step))
    assert plan.done


def test_a_silent_provider_is_hedged_after_a_while_and_the_first_answer_counts() -> None:
    plan = Plan([0], ["slow", "fast"], hedge_s=1.0)
    [first] = plan.next(0.0)
    assert plan.next(0.5) == []
    [second] = plan.next(1.5)
    assert second.provider != first.provider
    assert plan.arrived(second, 1.6)
    assert not plan.arrived(first, 1.7)
    assert plan.done


def test_work_is_spread_over_providers() -> None:
    asks = Plan(range(8), ["a", "b"]).next(0.0)
    assert sorted(ask.provider for ask in asks) == ["a"] * 4 + ["b"] * 4


def test_the_plan_says_why_it_is_stuck() -> None:
    plan = Plan([0], ["a", "b"], attempts=2)
    assert Plan([0], []).stuck == "no provider is known"
    plan.lacking(next(iter(plan.next(0.0))), 0.0)
    now = 0.0
    while not plan.stuck:
        for ask in plan.next(now):
            plan.failed(ask, "connection refused", now)
        now += 1
    assert "connection refused" in plan.stuck
    assert "does not have it" in plan.stuck
    assert now < 10


def test_a_late_provider_unsticks_a_plan() -> None:
    plan = Plan([0], [])
    plan.add_providers(["new"])
    assert not plan.stuck
    assert [ask.provider for ask in plan.next(0.0)] == ["new"]

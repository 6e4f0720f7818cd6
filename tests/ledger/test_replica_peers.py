"""The replica machine with peers that fail, lie, or flood it: bounded, and never in a loop."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ledger.replica.values import ANSWER_BYTES, HEADS, Entries, EntriesOf, Heads, HeadsSince
from tests.ledger.replica_bench import BIG, Bench, shelf
from tests.ledger.replica_kit import certificate, entry


def test_a_log_that_one_peer_fails_to_send_is_fetched_from_another() -> None:
    bench, other = Bench("p", "q"), shelf(a=5)
    bench.heads("p", (BIG, 5))
    bench.heads("q", (BIG, 5))
    first = bench.next(EntriesOf)
    bench.do(bench.machine.failed(first.peer, first.request, "no answer", bench.now))
    second = bench.next(EntriesOf)
    assert second.peer != first.peer
    found = other.answer(second.request)
    assert found is not None
    bench.answer(second, found)
    bench.store()
    assert bench.shelf.certified == {BIG: 5}


def test_a_peer_that_does_not_answer_is_asked_ever_more_seldom() -> None:
    bench = Bench("p")
    times = []
    for _ in range(8):
        ask = bench.next(HeadsSince)
        times.append(bench.now)
        bench.do(bench.machine.failed(ask.peer, ask.request, "no answer", bench.now))
    pauses = [later - before for before, later in pairwise(times)]
    assert pauses[-1] > 30 > pauses[0]
    assert bench.blamed == []


LIES = {
    "entries of another log": {"entries": tuple(entry("b", index) for index in range(10))},
    "too few": {"entries": (entry(BIG, 0),), "proof": (b"x" * 32,)},
    "none": {"entries": ()},
    "more than there are": {"entries": tuple(entry(BIG, index) for index in range(11))},
    "a smaller log than said": {"size": 9},
    "a greater log without a proof": {"size": 11},
    "a proof where none belongs": {"proof": (b"x" * 32,)},
    "another certificate": {"certificate": certificate("b", 10)},
}


@pytest.mark.parametrize("changes", LIES.values(), ids=LIES)
def test_a_lie_is_blamed_and_nothing_of_it_is_stored(changes: dict[str, object]) -> None:
    bench, other = Bench("p", answer_bytes=ANSWER_BYTES), shelf(a=10)
    bench.heads("p", (BIG, 10))
    ask = bench.next(EntriesOf)
    found = other.answer(ask.request)
    assert isinstance(found, Entries)
    given = {name: getattr(found, name) for name in ("entries", "size", "certificate", "proof")}
    bench.answer(ask, Entries(**{**given, **changes}))  # type: ignore[arg-type]
    bench.store()
    assert [blame.peer for blame in bench.blamed] == ["p"]
    assert bench.shelf.have == {}
    assert bench.machine.state.pending_bytes == 0


def test_a_liar_rests_ever_longer() -> None:
    bench = Bench("p")
    for _ in range(6):
        ask = bench.next(HeadsSince)
        bench.do(bench.machine.failed(ask.peer, ask.request, "nonsense", bench.now, lie=True))
    pauses = [blame.pause_s for blame in bench.blamed]
    assert pauses == [5.0 * 2**number for number in range(6)]
    bench.do(bench.machine.peer_left("p", bench.now))
    bench.do(bench.machine.peer_joined("p", bench.now))
    assert bench.machine.state.resting == 1, "leaving does not help"


def test_a_flood_of_worthless_logs_is_bounded_and_others_are_not_forgotten() -> None:
    bench, other = Bench("flood", "p", useless_pages=5, heads=100), shelf(a=10)
    bench.shelf.worthless = {f"{number}" for number in range(100_000)}
    for page in range(40):
        names = [f"{page * HEADS + number}" for number in range(HEADS)]
        ask = bench.next(HeadsSince)
        if ask.peer == "flood":
            bench.answer(ask, Heads(instance="f" * 32, cursor=page, heads=tuple((name, 5) for name in names)))
        else:
            found = other.answer(ask.request)
            assert found is not None
            bench.answer(ask, found)
        bench.serve(other)
        assert bench.machine.state.remembered <= 2 * 100
    assert bench.shelf.certified == {BIG: 10}
    assert {blame.peer for blame in bench.blamed} == {"flood"}


def test_what_becomes_worth_having_is_fetched_then() -> None:
    bench, other = Bench("p"), shelf(a=10)
    bench.shelf.worthless.add(BIG)
    for _ in range(5):
        bench.serve(other)
        bench.wait()
    assert bench.shelf.certified == {}
    bench.shelf.worthless.clear()
    for _ in range(5):
        bench.serve(other)
        bench.wait()
    assert bench.shelf.certified == {BIG: 10}


def test_what_had_to_be_forgotten_is_learned_again_once_it_is_worth_having() -> None:
    bench, other = Bench("p", heads=4), shelf(**{f"log{number}": 3 for number in range(20)})
    bench.shelf.worthless = set(other.certified)
    for _ in range(10):
        bench.serve(other)
        bench.wait()
    assert bench.machine.state.remembered <= 4
    bench.shelf.worthless.clear()
    for _ in range(60):
        bench.serve(other)
        bench.wait()
    assert bench.shelf.certified == other.certified

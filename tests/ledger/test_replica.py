"""The replica machine with honest peers: what it asks for, what it holds, what it stores."""

from __future__ import annotations

from itertools import pairwise

from ledger.replica.values import ANSWER_BYTES, Entries, EntriesOf, EvidenceOf, Heads, HeadsSince
from tests.ledger.replica_bench import BIG, Bench, shelf


def test_everything_is_fetched_in_order_and_then_it_is_quiet() -> None:
    bench, other = Bench("p"), shelf(a=3000, b=1, c=256, d=257)
    for _ in range(20):
        bench.serve(other)
        bench.wait()
    assert bench.shelf.certified == other.certified
    assert bench.shelf.taken == 3000 + 1 + 256 + 257, "nothing was fetched twice"
    assert bench.blamed == []
    state = bench.machine.state
    assert (state.remembered, state.fetching, state.pending_bytes) == (0, 0, 0)


def test_what_grows_later_is_fetched_later() -> None:
    bench, other = Bench("p"), shelf(a=10)
    for size in (10, 11, 700):
        other.grow(BIG, size)
        for _ in range(9):
            bench.serve(other)
            bench.wait()
        assert bench.shelf.certified == {BIG: size}
    assert bench.shelf.taken == 700


def test_heads_are_asked_ever_more_seldom_while_nothing_happens_and_quickly_after_news() -> None:
    bench, other = Bench("p"), shelf()
    times = []
    for _ in range(30):
        bench.wait()
        times.append(bench.now)
        bench.serve(other)
    assert 3.0 < times[-1] - times[-2] < 7.0
    other.grow(BIG, 5)
    bench.wait()
    bench.serve(other)
    before = bench.now
    bench.wait()
    assert bench.now - before < 1.0


def test_a_cursor_belongs_to_one_store() -> None:
    bench = Bench("p")
    first = bench.next(HeadsSince)
    assert first.request == HeadsSince(instance="", cursor=0)
    bench.answer(first, Heads(instance="ab" * 16, cursor=7, heads=()))
    assert bench.next(HeadsSince).request == HeadsSince(instance="ab" * 16, cursor=7)


def test_ranges_are_asked_ahead_within_the_limits_and_end_at_whole_bundles() -> None:
    bench, other = Bench("p", requests=3, peer_requests=3), shelf(a=5000)
    bench.heads("p", (BIG, 5000))
    first = bench.next(EntriesOf)
    assert first.request == EntriesOf(origin=BIG, start=0, end=64 * 256), "as many as one answer holds"
    assert not [ask for ask in bench.asked if isinstance(ask.request, EntriesOf)], "one, until it is known how many"
    answer = other.answer(first.request)
    assert isinstance(answer, Entries)
    bench.answer(first, answer)
    ahead = [ask.request for ask in bench.asked if isinstance(ask.request, EntriesOf)]
    assert len(ahead) == 3
    assert ahead[0].start == len(answer.entries)
    assert all(one.end == two.start and one.end % 256 == 0 for one, two in pairwise(ahead))


def test_nothing_more_is_asked_while_too_much_waits_to_be_stored() -> None:
    bench, other = Bench("p", pending_bytes=9000, peer_pending_bytes=9000), shelf(a=5000, b=5000)
    bench.heads("p", (BIG, 5000), ("b", 5000))
    for _ in range(20):
        for ask in [ask for ask in bench.asked if isinstance(ask.request, EntriesOf)]:
            bench.asked.remove(ask)
            found = other.answer(ask.request)
            assert found is not None
            bench.answer(ask, found)
            assert bench.machine.state.pending_bytes <= 9000
    assert not [ask for ask in bench.asked if isinstance(ask.request, EntriesOf)]
    bench.serve(other)
    assert bench.shelf.certified == other.certified


def test_answers_may_come_in_any_order() -> None:
    bench, other = Bench("p"), shelf(a=2000)
    bench.heads("p", (BIG, 2000))
    for _ in range(60):
        ranges = [ask for ask in bench.asked if isinstance(ask.request, EntriesOf)]
        if not ranges:
            break
        bench.asked.remove(ranges[-1])
        found = other.answer(ranges[-1].request)
        assert found is not None
        bench.answer(ranges[-1], found)
        bench.answer(ranges[-1], found)  # and twice
        bench.store()
    assert bench.shelf.certified == {BIG: 2000}
    assert bench.blamed == []


def test_our_own_tail_is_doubted_before_a_peer_is_blamed() -> None:
    bench, other = Bench("p"), shelf(a=10)
    bench.shelf.have[BIG] = 5  # entries without a certificate, for all the machine knows wrong ones
    bench.heads("p", (BIG, 10))
    ask = bench.next(EntriesOf)
    assert isinstance(ask.request, EntriesOf)
    assert ask.request.start == 5
    found = other.answer(ask.request)
    assert found is not None
    bench.answer(ask, found)
    take = bench.takes.pop()
    bench.do(bench.machine.refused(take, "another root", bench.shelf.fact(BIG), bench.now))
    again = bench.next(EntriesOf)
    assert isinstance(again.request, EntriesOf)
    assert again.request.start == 0
    assert bench.blamed == []
    bench.asked.append(again)
    bench.serve(other)
    assert bench.shelf.certified == {BIG: 10}


def test_a_disk_that_cannot_is_nobodys_fault_and_waited_for() -> None:
    bench, other = Bench("p"), shelf(a=10)
    bench.heads("p", (BIG, 10))
    ask = bench.next(EntriesOf)
    found = other.answer(ask.request)
    assert found is not None
    bench.answer(ask, found)
    bench.do(bench.machine.unable(bench.takes.pop(), bench.now))
    assert bench.machine.state.pending_bytes == 0
    before = bench.now
    bench.asked.append(bench.next(EntriesOf))
    assert bench.now - before >= 4
    bench.serve(other)
    assert bench.shelf.certified == {BIG: 10}
    assert bench.blamed == []


def test_evidence_is_asked_for_once_and_only_of_logs_worth_having() -> None:
    bench, other = Bench("p", "q"), shelf(a=1)
    other.accuse(BIG)
    bench.shelf.worthless.add("b")
    bench.heads("p", evidence=(BIG, "b"))
    bench.heads("q", evidence=(BIG,))
    ask = bench.next(EvidenceOf)
    assert ask.request == EvidenceOf(origin=BIG)
    found = other.answer(ask.request)
    assert found is not None
    bench.answer(ask, found)
    bench.store()
    assert BIG in bench.shelf.accused
    for _ in range(9):
        bench.wait()
    assert not [ask for ask in bench.asked if isinstance(ask.request, EvidenceOf)]


def test_a_peer_that_leaves_leaves_nothing_behind() -> None:
    bench = Bench("p")
    bench.heads("p", (BIG, 9000), ("b", 5), evidence=("c",))
    bench.do(bench.machine.peer_left("p", bench.now))
    state = bench.machine.state
    assert (state.peers, state.remembered, state.wanted, state.fetching) == (0, 0, 0, 0)
    assert (state.requests, state.pending_bytes) == (0, 0)


def test_there_are_only_so_many_peers() -> None:
    bench = Bench(*(f"{number}" for number in range(300)))
    assert bench.machine.state.peers == 128
    assert ANSWER_BYTES == 1 << 20

"""What the pure parts make of copies, odd norms and leaders that leave members out.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.entries import Receipt
from peer.errors import RoundError
from peer.rounds import messages as rounds
from peer.rounds.copies import Copies
from peer.rounds.norms import LEAST_PART, MOST_TIMES, weigh
from peer.rounds.treatment import OMITTED_ROUNDS, UNSEATED_ROUNDS, Treatment
from tests.peer.rounds_kit import (
    PLAN,
    QUOTA,
    S0,
    S1,
    TOKENS,
    A,
    B,
    Bench,
    C,
    D,
    applies,
    begun,
    blob,
    opened,
    receipt,
    reports,
    settled_round,
)


def four(**tokens: int) -> list[Receipt]:
    return [replace(receipt(account), tokens=tokens.get(name, TOKENS))
            for name, account in zip("abcd", (A, B, C, D), strict=True)]  # fmt: skip


def test_copies_are_found_in_the_round_and_in_every_earlier_one() -> None:
    log = begun()
    copies, first = Copies(log), receipt(A)
    copies.check(first, [])
    stolen = replace(receipt(B), update=first.update)
    with pytest.raises(RoundError) as refused:
        copies.check(stolen, [receipt(C), first])
    assert refused.value.code == "FP-427"
    assert refused.value.evidence == (first.encode(), stolen.encode())
    log.extend(settled_round(1, S0, S1, log.size))
    for account in (A, B):
        with pytest.raises(RoundError, match="delivered for round 1"):
            copies.check(replace(receipt(account, number=2), update=first.update), [])
    copies.check(receipt(B, number=2), [])


def test_a_copied_update_is_not_checked_and_its_sender_may_deliver_another() -> None:
    bench = Bench(replace(PLAN, min_members=3))
    bench.beat(A, B, C)
    bench.deliver(A)
    own = bench.open_receipt(B)
    with pytest.raises(RoundError, match="is the one that"):
        bench.tell(rounds.Delivered(receipt=replace(own, update=bench.open_receipt(A).update)))
    assert bench.machine.delivered == {A}
    bench.deliver(B)
    assert bench.machine.delivered == {A, B}


@pytest.mark.parametrize("clipped", [True, False])
def test_norms_within_the_bounds_are_passed_over(clipped: bool) -> None:
    sound = four()
    norms = {A: 1000, B: 1000, C: 1000 * MOST_TIMES, D: 1000 // LEAST_PART + 1}
    assert weigh(sound, norms, clipped=clipped) == (tuple(sound), [])
    assert weigh(sound[:2], {A: 1, B: 10**9}, clipped=clipped) == (tuple(sound[:2]), []), "two cannot judge each other"
    assert weigh(sound, {}, clipped=clipped) == (tuple(sound), [])


def test_too_much_is_left_out_where_nothing_is_clipped_and_told_where_it_is() -> None:
    sound, norms = four(), {A: 1000, B: 1000, C: 1000, D: 1000 * MOST_TIMES + 1}
    counted, told = weigh(sound, norms, clipped=True)
    assert (counted, [(report.event, report.fields["account"]) for report in told]) == (
        tuple(sound), [("suspicious", D)]
    )  # fmt: skip
    counted, told = weigh(sound, norms, clipped=False)
    assert counted == tuple(sound[:3])
    assert [(report.event, report.fields["account"], report.fields["code"]) for report in told] == [
        ("refused", D, "FP-428")
    ]


def test_too_little_is_told_and_counts() -> None:
    sound = four()
    counted, told = weigh(sound, {A: 0, B: 1000, C: 1000, D: 1000}, clipped=False)
    assert counted == tuple(sound)
    assert [(report.event, report.fields["account"]) for report in told] == [("suspicious", A)]


def test_the_bounds_go_along_with_the_tokens_where_that_favours_the_member() -> None:
    norms = {A: 1000, B: 1000, C: 1000, D: 3000 * MOST_TIMES}
    assert weigh(four(d=3 * TOKENS), norms, clipped=False)[1] == []
    small = {A: 6400, B: 6400, C: 6400, D: 6400 // LEAST_PART // 4 + 1}
    assert weigh(four(a=4 * TOKENS, b=4 * TOKENS, c=4 * TOKENS), small, clipped=True)[1] == []


def test_all_updates_empty_are_judged_without_a_fault() -> None:
    sound = four()
    assert weigh(sound, dict.fromkeys((A, B, C, D), 0), clipped=False)[0] == tuple(sound)


def test_an_overweight_update_is_not_applied() -> None:
    bench = Bench(replace(PLAN, min_members=3, clipped=False))
    bench.beat(A, B, C)
    effects = []
    for account, norm in ((A, 10), (B, 10), (C, 10_000)):
        given = bench.open_receipt(account)
        effects += bench.tell(rounds.Delivered(receipt=given))
        effects += bench.tell(rounds.Checked(account=account, update=given.update, refusal=None, norm=norm))
    assert applies(effects) == [(A, B)]
    assert [fields["account"] for fields in reports(effects, "refused")] == [C]


def test_a_receipt_that_was_settled_is_nothing_to_complain_of() -> None:
    log, treatment = begun(), Treatment(A, 8)
    treatment.taken(receipt(A), B)
    assert treatment.left_out(log) == [], "its round is not over"
    log.extend(settled_round(1, S0, S1, log.size))
    assert treatment.left_out(log) == []
    assert not treatment.neglected


def test_receipts_left_out_again_and_again_without_a_reason_set_us_free() -> None:
    log, treatment = begun(), Treatment(C, 8)
    for number in range(1, OMITTED_ROUNDS + 1):
        assert not treatment.neglected
        ours = receipt(C, number=number)
        treatment.taken(ours, B)
        log.extend(settled_round(number, S0, S0, log.size))
        assert treatment.left_out(log) == [(ours, B)]
        assert treatment.left_out(log) == [], "once"
        told = treatment.explained(number, B, None)
        assert (told.event, told.fields["account"], told.fields["code"]) == ("omitted", B, "FP-435")
    assert treatment.neglected


def test_reasons_are_believed_for_long_but_not_for_ever() -> None:
    log, treatment = begun(), Treatment(C, 8)
    for number in range(1, UNSEATED_ROUNDS + 1):
        assert not treatment.neglected
        treatment.taken(receipt(C, number=number), B)
        log.extend(settled_round(number, S0, S0, log.size))
        assert treatment.left_out(log) is not None
        assert treatment.explained(number, B, ("FP-107", "zero")).fields["code"] == "FP-107"
    assert treatment.neglected


@pytest.mark.parametrize(("most", "words"), [(8, "1 others have one"), (1, "all 1 seats are taken")])
def test_rounds_without_a_seat_are_counted_while_we_are_ready_and_told_once(most: int, words: str) -> None:
    log, treatment, told = begun(), Treatment(C, most), []
    for number in range(1, UNSEATED_ROUNDS + 3):
        log.extend([opened(number, S0, [A], number * QUOTA)])
        told += treatment.look(log, S0, A)
        told += treatment.look(log, S0, A)
        log.extend(settled_round(number, S0, S0, log.size - 1)[1:])
    assert [report.fields["account"] for report in told] == [A]
    assert str(told[0].fields["reason"]).endswith(words)
    assert treatment.neglected


def test_who_holds_another_state_is_not_ready_and_a_seat_clears_the_count() -> None:
    log, treatment = begun(), Treatment(C, 8)
    log.extend([opened(1, S0, [A])])
    treatment.look(log, blob("elsewhere"), A)
    assert treatment.unseated == 0
    log.extend(settled_round(1, S0, S0, log.size - 1)[1:])
    log.extend([opened(2, S0, [A], QUOTA)])
    treatment.look(log, S0, A)
    assert treatment.unseated == 1
    log.extend(settled_round(2, S0, S0, log.size - 1)[1:])
    log.extend([opened(3, S0, [A, C], 2 * QUOTA)])
    treatment.look(log, S0, A)
    assert treatment.unseated == 0


def test_nobody_complains_of_itself() -> None:
    log, treatment = begun(), Treatment(A, 8)
    treatment.taken(receipt(A), A)
    log.extend([opened(1, S0, [B])])
    assert treatment.look(log, S0, A) == []
    assert treatment.left_out(log) == []

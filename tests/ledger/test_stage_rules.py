"""The rules of rounds with stages: which entry may follow, and when a round may be settled."""

from dataclasses import replace

import pytest

from ledger.codec import MAX_INT
from ledger.entries import Begin, Close, Open, Seat, Settle, StageSeat, run_id
from ledger.errors import EntryInvalid
from ledger.rules import RunRules, rules_of
from ledger.stages import run_state

from . import stage_world, world
from .stage_world import (
    DRIVERS,
    ENDS,
    MIDDLE,
    RUN,
    SERVED,
    SPEC,
    opened,
    receipt,
    run_log,
    settled,
    spec_of,
    states,
)
from .test_keys import MIXED_ORDER
from .test_rules import refused
from .world import ALICE, CAROL, GENESIS, blob, receipt_of

TERMS = GENESIS.terms
S0 = run_state(states(0))
SEATS = opened(1).roster
FIRST = 3
"""Where the receipts of the first round begin."""


def after(count: int) -> RunRules:
    """The rules after the first entries of the run."""
    return begun(run_log(2)[:count])


def begun(log, run=RUN) -> RunRules:
    """The rules after these entries."""
    rules = rules_of(TERMS, GENESIS.run_origin(run))
    for entry in log:
        rules.apply(entry)
    assert isinstance(rules, RunRules)
    return rules


def seats(*changed: StageSeat, without: tuple[int, ...] = ()) -> tuple[StageSeat, ...]:
    """The seats of a round, with some taken out and others put in."""
    return (*(seat for number, seat in enumerate(SEATS) if number not in without), *changed)


def seat(key, start: int, quota: int, stage: int) -> StageSeat:
    return StageSeat(key.public, start, quota, stage)


def test_a_whole_run_is_accepted():
    rules = begun(run_log(2, close=True))
    assert (rules.settled, rules.slot_cursor, rules.closed, rules.state) == (2, 24, True, run_state(states(2)))
    assert rules.counted == tuple(
        (key.public, 2000 * len(done), stage_world.SHARES[stage_world.STAGE[key.public]])
        for key, done in SERVED[2].items()
    )


@pytest.mark.parametrize(("log", "entry"), [
    (run_log(1)[:2], Open(round=1, state=S0, roster=(Seat(ALICE.public, 0, 2),))),
    (run_log(1)[:3], replace(receipt_of(DRIVERS[0], 1, S0, 0, 8), run=RUN)),
    (run_log(1)[:-1], Settle(round=1, receipts=(), state=S0)),
])  # fmt: skip
def test_a_run_with_stages_has_no_rounds_without(log, entry):
    refused(begun(log), entry, "type")


@pytest.mark.parametrize(("count", "entry"), [(2, opened(1)), (3, receipt(DRIVERS[0], 1, (0,))), (3, settled(1, ()))])
def test_a_run_without_stages_has_no_rounds_with(count, entry):
    refused(begun(world.run_log(1)[:count], run=world.RUN), entry, "type")


def test_a_receipt_is_not_one_of_the_other_kind_even_where_it_is_asked_about_alone():
    with pytest.raises(EntryInvalid, match="spec has stages"):
        after(3).check_receipt(receipt_of(DRIVERS[0], 1, S0, 0, 8))
    with pytest.raises(EntryInvalid, match="spec has no stages"):
        begun(world.run_log(1)[:3], run=world.RUN).check_receipt(receipt(DRIVERS[0], 1, (0,)))


@pytest.mark.parametrize(("roster", "got"), [
    (seats(seat(DRIVERS[0], 0, 8, 0)), "twice"), (seats(seat(DRIVERS[0], 0, 12, 1)), "twice"),
    (seats(without=(2, 3)), "nobody in stage 1"), (seats(without=(4, 5)), "nobody in stage 2"),
    (seats(seat(ALICE, 0, 12, 3)), "stage 3"), (seats(seat(ALICE, 0, 12, MAX_INT)), f"stage {MAX_INT}"),
    (seats(seat(ALICE, 0, 10, 1)), "10 slots from 0"), (seats(seat(ALICE, 2, 12, 1)), "12 slots from 2"),
    (seats(seat(ALICE, 0, 14, 2)), "14 slots from 0"), (seats(seat(ALICE, 8, 4, 1)), "4 slots from 8"),
    (seats(seat(ALICE, 11, 2, 0)), "slots from 11"), (seats(seat(ALICE, 14, 2, 0)), "slots from 14"),
    (seats(seat(ALICE, 0, 2, 0)), "slots from 0"), (seats(seat(ALICE, 12, 3, 0)), "3 slots"),
    (seats(seat(ALICE, 12, MAX_INT - 13, 0)), "12 slots from 0"),
    (seats(seat(ALICE, 12, MAX_INT - 1, 0)), f"slots up to {MAX_INT + 11}"),
])  # fmt: skip
def test_a_roster_that_is_not_whole_is_refused(roster, got):
    rules = after(2)
    with pytest.raises(EntryInvalid, match=got) as caught:
        rules.apply(opened(1, roster=roster))
    assert caught.value.rule == "roster"
    refused(rules, opened(1, roster=roster), "roster")


@pytest.mark.parametrize(("changes", "rule"), [
    ({"round": 2}, "round"), ({"state": states(0)[0]}, "state"),
    ({"roster": seats(StageSeat(MIXED_ORDER, 0, 12, 1))}, "key"),
])  # fmt: skip
def test_an_open_that_does_not_follow_is_refused(changes, rule):
    refused(after(2), opened(1, **changes), rule)


def test_slots_are_given_out_once_even_when_a_round_is_opened_again():
    rules = after(4)
    refused(rules, opened(1), "roster")
    roster = tuple(seat._replace(slot_start=seat.slot_start + 12) for seat in SEATS)
    rules.apply(opened(1, roster=roster))
    assert (rules.receipts, rules.slot_cursor) == ({}, 24)
    refused(rules, receipt(DRIVERS[0], 1, (0,)), "slots")
    rules.apply(receipt(DRIVERS[0], 1, (0,), slots=(12, 2)))


def test_a_gap_below_the_round_is_no_gap_within_it():
    roster = tuple(seat._replace(slot_start=seat.slot_start + 5) for seat in SEATS)
    rules = after(2)
    rules.apply(opened(1, roster=roster))
    rules.apply(receipt(DRIVERS[1], 1, (4, 5), slots=(5, 4)))
    assert rules.slot_cursor == 17


@pytest.mark.parametrize(("key", "served", "changes", "rule"), [
    (DRIVERS[0], (0,), {"network": "00" * 32}, "network"), (DRIVERS[0], (0,), {"run": "00" * 32}, "run"),
    (DRIVERS[0], (0,), {"round": 2}, "round"), (DRIVERS[0], (0,), {"state_in": states(0)[0]}, "state_in"),
    (CAROL, (0,), {"stage": 1}, "account"), (MIDDLE[0], (0,), {"stage": 0}, "stage"),
    (MIDDLE[0], (0,), {"stage": 2}, "stage"), (MIDDLE[0], (0,), {"stage": 99}, "stage"),
    (DRIVERS[0], (4,), {}, "served"), (DRIVERS[0], (0, 5), {}, "served"), (DRIVERS[1], (0, 4), {}, "served"),
    (DRIVERS[1], (3,), {}, "served"), (MIDDLE[0], (6,), {}, "served"), (MIDDLE[0], (7,), {}, "served"),
    (MIDDLE[0], (0,), {"served": "1"}, "served"), (MIDDLE[0], (0,), {"served": "001"}, "served"),
    (MIDDLE[0], (8,), {}, "served"), (MIDDLE[0], (0,), {"slots": (0, 4)}, "slots"),
    (MIDDLE[0], (0, 1), {"slots": (0, 2)}, "slots"), (MIDDLE[0], (0,), {"slots": (2, 2)}, "slots"),
    (DRIVERS[1], (4,), {"slots": (8, 2)}, "slots"), (MIDDLE[0], (0,), {"tokens": 2001}, "tokens"),
    (MIDDLE[0], (0,), {"loss": 1}, "loss"), (DRIVERS[0], (0,), {"loss": 1}, "loss"),
])  # fmt: skip
def test_a_receipt_that_does_not_fit_the_open_is_refused_by_name(key, served, changes, rule):
    refused(after(3), receipt(key, 1, served, **changes), rule)


def test_a_receipt_with_a_bad_signature_is_refused():
    forged = replace(receipt(ENDS[0], 1, (0,)), loss=1)
    refused(after(3), forged, "signature")
    other = replace(receipt(MIDDLE[0], 1, (0,)), account=MIDDLE[1].public)
    refused(after(3), other, "signature")


def test_a_member_has_one_receipt_per_round():
    refused(after(4), receipt(DRIVERS[0], 1, (1,)), "slots")


def test_nothing_is_said_of_a_round_that_is_not_open():
    refused(after(2), receipt(DRIVERS[0], 1, (0,)), "round")
    refused(after(2), settled(1, ()), "round")


def served(*who: tuple[object, tuple[int, ...]]) -> RunRules:
    """The rules after the receipts of those who served these microbatches of round 1."""
    return begun([*run_log(1)[:FIRST], *(receipt(key, 1, done) for key, done in who)])


ALL = (0, 1, 2, 3)
GOOD = ((DRIVERS[0], ALL), (MIDDLE[0], ALL), (ENDS[0], (0, 2)), (ENDS[1], (1, 3)))


def test_a_round_is_settled_where_every_stage_served_the_same():
    rules = served(*GOOD)
    rules.apply(settled(1, range(FIRST, FIRST + 4)))
    assert (rules.settled, rules.open, rules.state) == (1, None, run_state(states(1)))


def test_a_round_in_which_nobody_served_anything_is_settled_too():
    rules = after(3)
    rules.apply(settled(1, ()))
    assert rules.counted == ()


@pytest.mark.parametrize(("who", "named", "got"), [
    (GOOD, (0, 1, 2), "microbatch 1 in stage 0 and not in stage 2"),
    (GOOD, (0, 2, 3), "0 in stage 0 and not in stage 1"),
    (GOOD, (1, 2, 3), "0 in stage 1 and not in stage 0"), (GOOD, (1,), "0 in stage 1 and not in stage 0"),
    ((*GOOD[:2], (ENDS[0], (0, 2)), (ENDS[1], (1, 2, 3))), range(4), "microbatch 2 of stage 2 again in entry 6"),
    ((*GOOD[:1], (MIDDLE[0], ALL), (MIDDLE[1], ALL), *GOOD[2:]), range(5), "microbatch 0 of stage 1 again in entry 5"),
    ((*GOOD[:2], (ENDS[0], (0, 2)), (ENDS[1], (1, 3, 4))), range(4), "microbatch 4 in stage 2 and not in stage 0"),
    ((*GOOD, (DRIVERS[1], (4,))), range(5), "microbatch 4 in stage 0 and not in stage 1"),
    (((DRIVERS[0], (0, 1)), *GOOD[1:]), range(4), "microbatch 2 in stage 1 and not in stage 0"),
])  # fmt: skip
def test_a_round_in_which_something_is_lost_or_counts_twice_is_refused(who, named, got):
    rules = served(*who)
    with pytest.raises(EntryInvalid, match=got):
        rules.apply(settled(1, [FIRST + number for number in named]))
    refused(rules, settled(1, [FIRST + number for number in named]), "served")


@pytest.mark.parametrize(("entry", "rule"), [
    (settled(2, ()), "round"), (settled(1, (2,)), "receipts"), (settled(1, (3, 99)), "receipts"),
    (settled(1, (), validation=(2, 1)), "validation"),
    (settled(1, (), states=states(1)[:2], state=run_state(states(1)[:2])), "states"),
    (settled(1, (), states=(*states(1), blob(1)), state=run_state((*states(1), blob(1)))), "states"),
])  # fmt: skip
def test_a_settle_that_does_not_fit_the_open_is_refused(entry, rule):
    refused(served(*GOOD), entry, rule)


def test_a_close_states_the_state_of_the_run():
    rules = after(len(run_log(1)))
    refused(rules, Close(state=states(1)[0], reason=""), "state")
    rules.apply(Close(state=run_state(states(1)), reason=""))


class TestExperts:
    """The last stages of a run may be groups of experts: of those nothing needs to be served."""

    SPEC = spec_of(experts=1)

    def rules(self, *who: tuple[object, tuple[int, ...]], roster: tuple[StageSeat, ...] = SEATS) -> RunRules:
        """A round whose last stage is a group of experts."""
        run = run_id(self.SPEC)
        given = [receipt(key, 1, done, run=run, loss=3 * (key in MIDDLE)) for key, done in who]
        return begun([Begin(spec=self.SPEC), opened(1, roster=roster), *given], run=run)

    def test_what_experts_served_in_part_is_settled(self):
        rules = self.rules((DRIVERS[0], ALL), (MIDDLE[0], ALL), (ENDS[0], (0,)), (ENDS[1], (2,)))
        rules.apply(settled(1, (2, 3, 4, 5)))
        assert [tokens for _, tokens, _ in rules.counted] == [8000, 8000, 2000, 2000]

    def test_a_group_of_experts_may_have_nobody_and_a_stage_may_not(self):
        rules = self.rules((DRIVERS[0], ALL), (MIDDLE[0], ALL), roster=seats(without=(4, 5)))
        rules.apply(settled(1, (2, 3)))
        with pytest.raises(EntryInvalid, match="nobody in stage 1"):
            self.rules(roster=seats(without=(2, 3)))

    @pytest.mark.parametrize(("third", "fourth", "got"), [
        ((0, 1), (1, 2), "microbatch 1 of stage 2 again"), ((0,), (5,), "microbatch 5 in stage 2 and not in stage 0"),
    ])  # fmt: skip
    def test_what_experts_served_twice_or_alone_is_refused(self, third, fourth, got):
        rules = self.rules((DRIVERS[0], ALL), (MIDDLE[0], ALL), (ENDS[0], third), (ENDS[1], fourth))
        with pytest.raises(EntryInvalid, match=got):
            rules.apply(settled(1, (2, 3, 4, 5)))

    def test_the_loss_is_said_by_the_last_stage_and_not_by_experts(self):
        with pytest.raises(EntryInvalid, match="loss is 3"):
            self.rules((DRIVERS[0], ALL)).apply(receipt(ENDS[0], 1, (0,), run=run_id(self.SPEC), loss=3))


def test_a_copy_is_independent():
    rules = after(3)
    twin = rules.copy()
    twin.apply(receipt(DRIVERS[0], 1, (0,)))
    assert (rules.size, rules.receipts) == (3, {})


def test_a_spec_with_other_stages_is_another_run():
    assert run_id(spec_of(shares=[300_000, 300_000, 400_000])) != run_id(SPEC)
    refused(begun([]), Begin(spec=spec_of(microbatch=4)), "run id")

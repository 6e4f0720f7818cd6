"""Runs with stages: bitmaps forged, microbatches lost or paid twice, stages missing, shares and states that do not fit.

Everything is signed by whoever is asked: the run's leader, its members and a quorum of witnesses are in on it.
"""

import json
from dataclasses import replace

import pytest

from ledger import codec
from ledger.entries import Begin, Close, Entry, Open, Receipt, Seat, Settle, StageSeat, run_id
from ledger.errors import Conflict, EntryInvalid, LedgerError
from ledger.merkle import leaf_hash
from ledger.stages import run_state
from tests.ledger import stage_world
from tests.ledger.stage_world import DRIVERS, ENDS, MIDDLE, RUN, SPEC, opened, settled, states
from tests.ledger.world import blob, receipt_of

from .kit import ALICE, DATA, ERIN, GENESIS, LOGS, MALLORY, RUN_LOG, STAGED_LOG, certificate
from .lines import named

LOG = LOGS[STAGED_LOG]
END = len(LOG)
FIRST = END - 2
"""Where the receipts of the third round begin; the first driver and the first in the middle served 0 and 1."""
OPEN, SETTLE = 2, 8
S2 = run_state(states(2))


def receipt(key, microbatches, round_=3, **changes) -> Entry:
    """A member's receipt, by default of the open round."""
    return stage_world.receipt(key, round_, microbatches, **{"network": GENESIS.id, **changes})


def refused(ledger, replica, log, rule, index=None) -> None:
    """The run's log is refused at its last entry, or `index`, by the verifier and by any replica."""
    named(ledger, replica, log, rule, index, STAGED_LOG)


class TestAnyByte:
    """A byte of a new kind of entry is not what was hashed."""

    @pytest.mark.parametrize("index", [OPEN, 5, SETTLE])
    def test_the_verifier_names_the_entry_and_its_hash(self, ledger, index):
        data = DATA[STAGED_LOG][index]
        for at in range(index, len(data), 53):
            ledger.set(STAGED_LOG, index, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            fault = ledger.fault()
            assert (fault.origin, fault.entry, fault.rule) == (STAGED_LOG, index, "leaf hash")
            assert any("shows that the entry was changed" in line for line in fault.further)

    @pytest.mark.parametrize("index", [OPEN, 5, SETTLE])
    def test_with_its_hash_made_to_fit_nobody_takes_it(self, ledger, replica, index):
        log = list(DATA[STAGED_LOG])
        for at in range(index, len(log[index]), 53):
            bad = log[index][:at] + bytes([log[index][at] ^ 1]) + log[index][at + 1 :]
            ledger.set(STAGED_LOG, index, bad, leaf=leaf_hash(bad))
            assert ledger.fault().origin == STAGED_LOG
            with pytest.raises((EntryInvalid, Conflict)):
                replica.accept(STAGED_LOG, 0, [*log[:index], bad, *log[index + 1 :]], certificate(STAGED_LOG, log))
        assert replica.origins() == []

    def test_a_damaged_receipt_is_still_told_as_one(self, ledger):
        for name in (b'"type":"stage_receipt"', b'"type":"stage_receip_"'):
            data = DATA[STAGED_LOG][5].replace(b'"type":"stage_receipt"', name).replace(b'"loss":0', b'"loss":1')
            ledger.set(STAGED_LOG, 5, data)
            assert f"account {MIDDLE[0].public} round 1" in ledger.fault().what

    def test_fields_too_many_or_too_few_are_refused(self, ledger):
        for index in (OPEN, 5, SETTLE):
            body = json.loads(DATA[STAGED_LOG][index])
            less = {name: value for name, value in body.items() if name != "round"}
            for changed in ({**body, "zeta": 1}, less):
                log = [*DATA[STAGED_LOG][:index], codec.encode(changed), *DATA[STAGED_LOG][index + 1 :]]
                ledger.forge(STAGED_LOG, log)
                assert (ledger.fault().entry, ledger.fault().rule) == (index, f"keys of {body['type']}")


class TestForgedBitmap:
    """A receipt says that more, or other microbatches were served."""

    @pytest.mark.parametrize("served", ["02", "04", "07", "3f", "3c"])
    def test_by_somebody_else_its_signature_tells(self, ledger, replica, served):
        count = int(served, 16).bit_count()
        forged = replace(LOG[FIRST + 1], served=served, slots=(24, 2 * count), tokens=2000 * count)
        refused(ledger, replica, [*LOG[: FIRST + 1], forged], "signature")

    @pytest.mark.parametrize(("key", "served", "changes", "rule"), [
        (DRIVERS[1], (3,), {}, "served"), (DRIVERS[1], (3, 4, 5), {}, "served"), (ENDS[0], (6,), {}, "served"),
        (ENDS[0], (7,), {}, "served"), (ENDS[0], (0,), {"served": "001"}, "served"),
        (ENDS[0], (0,), {"served": "1"}, "served"), (ENDS[0], (0, 1), {"tokens": 2000}, "tokens"),
        (ENDS[0], (0,), {"tokens": 4000, "slots": (24, 4)}, "slots"), (ENDS[0], (0,), {"slots": (12, 2)}, "slots"),
    ])  # fmt: skip
    def test_by_the_member_itself_the_rules_tell(self, ledger, replica, key, served, changes, rule):
        refused(ledger, replica, [*LOG, receipt(key, served, **changes)], rule)

    @pytest.mark.parametrize("served", ["", "0", "00", "0G", "3F", "-1", "0x", " 1", "1 ", "1\n", "１"])
    def test_in_another_spelling_has_no_form(self, served):
        with pytest.raises(EntryInvalid, match="served"):
            receipt(ENDS[0], (0,), served=served)


class TestMicrobatchLostOrPaidTwice:
    """A settle in which the stages did not serve the same, each once."""

    @pytest.mark.parametrize("names", [(0,), (1,), (0, 1)])
    def test_a_stage_that_nobody_served_is_refused(self, ledger, replica, names):
        refused(ledger, replica, [*LOG, settled(3, [FIRST + name for name in names])], "served")

    @pytest.mark.parametrize(("key", "served"), [(ENDS[0], (0,)), (ENDS[0], (0, 1, 2)), (ENDS[0], (2, 3))])
    def test_a_stage_that_served_less_or_more_is_refused(self, ledger, replica, key, served):
        log = [*LOG, receipt(key, served), settled(3, (FIRST, FIRST + 1, END))]
        refused(ledger, replica, log, "served")

    def test_a_microbatch_that_two_of_a_stage_served_is_refused(self, ledger, replica):
        log = [*LOG, receipt(ENDS[0], (0, 1)), receipt(ENDS[1], (1,)), settled(3, (FIRST, FIRST + 1, END, END + 1))]
        refused(ledger, replica, log, "served")
        log = [*LOG, receipt(ENDS[0], (0, 1)), receipt(MIDDLE[1], (0,)), settled(3, (FIRST, FIRST + 1, END, END + 1))]
        refused(ledger, replica, log, "served")

    def test_a_driver_has_one_receipt_and_the_round_one_settle(self, ledger, replica):
        refused(ledger, replica, [*LOG, receipt(DRIVERS[0], (2, 3))], "slots")
        whole = [*LOG, receipt(ENDS[0], (0, 1)), settled(3, (FIRST, FIRST + 1, END))]
        refused(ledger, replica, [*whole, settled(3, (FIRST, FIRST + 1, END))], "round")
        refused(ledger, replica, [*LOG[:-1], settled(3, (4, FIRST))], "receipts")

    def test_what_is_paid_is_what_the_shares_give_and_never_above_what_was_set_aside(self, ledger):
        before = ledger.sound().ledger.runs[RUN]
        ledger.forge(STAGED_LOG, [*LOG, receipt(ENDS[0], (0, 1)), settled(3, (FIRST, FIRST + 1, END))])
        after = ledger.sound().ledger.runs[RUN]
        assert {who: amount - before.paid.get(who, 0) for who, amount in after.paid.items()} == {
            **dict.fromkeys(before.paid, 0), DRIVERS[0].public: 7, MIDDLE[0].public: 10, ENDS[0].public: 12,
        }  # fmt: skip
        assert (before.reserved, after.reserved) == (93, 0)
        assert after.balance == before.balance + 93 - 29


class TestStageMissing:
    """An open without a stage, or with seats that do not fit the round."""

    SEATS = opened(3).roster

    @pytest.mark.parametrize("roster", [
        SEATS[:2], SEATS[:4], (*SEATS[:2], *SEATS[4:]), (*SEATS, SEATS[0]),
        (*SEATS, StageSeat(MALLORY.public, 24, 12, 3)), (*SEATS, StageSeat(MALLORY.public, 24, 10, 1)),
        (*SEATS, StageSeat(MALLORY.public, 12, 12, 1)), (*SEATS, StageSeat(MALLORY.public, 34, 2, 0)),
        (*SEATS, StageSeat(MALLORY.public, 36, 1, 0)), (*SEATS, StageSeat(MALLORY.public, 40, 2, 0)),
        tuple(seat._replace(slot_start=seat.slot_start - 12) for seat in SEATS),
    ])  # fmt: skip
    def test_is_refused_with_the_open(self, ledger, replica, roster):
        refused(ledger, replica, [*LOG[: FIRST - 1], opened(3, roster=roster)], "roster")

    def test_without_any_driver_it_has_no_form(self):
        with pytest.raises(EntryInvalid, match="none of stage 0"):
            opened(3, roster=self.SEATS[2:])

    @pytest.mark.parametrize("stage", [0, 2, 3, 2**53 - 1])
    def test_a_receipt_of_another_stage_than_its_seats_is_refused(self, ledger, replica, stage):
        refused(ledger, replica, [*LOG, receipt(MIDDLE[1], (0,), stage=stage)], "stage")

    def test_a_receipt_of_a_stranger_is_refused(self, ledger, replica):
        for key in (MALLORY, ALICE, ERIN):
            refused(ledger, replica, [*LOG, receipt(key, (0,))], "account")


class TestReplayedElsewhere:
    """A good receipt once more, in another round, run or network."""

    @pytest.mark.parametrize("index", [3, 5, 7, 10])
    def test_from_an_earlier_round(self, ledger, replica, index):
        refused(ledger, replica, [*LOG, LOG[index]], "round")

    @pytest.mark.parametrize(("changes", "rule"), [
        ({"network": "ab" * 32}, "network"), ({"run": "ab" * 32}, "run"), ({"state_in": states(2)[2]}, "state_in"),
    ])  # fmt: skip
    def test_from_elsewhere(self, ledger, replica, changes, rule):
        refused(ledger, replica, [*LOG, receipt(ENDS[0], (0,), **changes)], rule)
        put_right = {"network": GENESIS.id, "run": RUN, "state_in": S2}
        forged = replace(receipt(ENDS[0], (0,), **changes), **{name: put_right[name] for name in changes})
        refused(ledger, replica, [*LOG, forged], "signature")

    def test_from_a_run_without_stages(self, ledger, replica):
        plain = receipt_of(DRIVERS[1], 3, S2, 32, 4, network=GENESIS.id, run=RUN)
        assert isinstance(plain, Receipt)
        refused(ledger, replica, [*LOG, plain], "type")
        roster = (Seat(DRIVERS[0].public, 24, 8),)
        refused(ledger, replica, [*LOG[: FIRST - 1], Open(round=3, state=S2, roster=roster)], "type")
        refused(ledger, replica, [*LOG, Settle(round=3, receipts=(), state=S2)], "type")

    @pytest.mark.parametrize("index", [OPEN, 5, SETTLE])
    def test_in_a_run_without_stages(self, ledger, replica, index):
        named(ledger, replica, [*LOGS[RUN_LOG], LOG[index]], "type")


class TestShares:
    """Another price, or other shares, than the run began with."""

    @pytest.mark.parametrize("stages", [
        {"shares": [250_000, 350_000, 500_000]}, {"shares": [0, 500_000, 500_000]}, {"shares": [250_000, 350_000]},
        {"shares": [500_000, 500_000]}, {"shares": [1.0]}, {"microbatch": 0}, {"experts": 3}, {"zeta": 1},
        {"states": list(states(1))}, {"states": list(states(0)[:2])}, {"states": list(reversed(states(0)))},
    ])  # fmt: skip
    def test_that_do_not_fit_have_no_form(self, stages):
        with pytest.raises(LedgerError):
            Begin(spec=stage_world.spec_of(**stages))

    @pytest.mark.parametrize("stages", [
        {"shares": [400_000, 350_000, 250_000]}, {"microbatch": 4}, {"experts": 1},
    ])  # fmt: skip
    def test_that_others_agreed_on_are_another_run(self, ledger, replica, stages):
        spec = stage_world.spec_of(**stages)
        refused(ledger, replica, [Begin(spec=spec), *LOG[1:]], "run id", 0)
        assert run_id(spec) != run_id(SPEC)


class TestStatesOfStages:
    """A settle, or a close, whose state is not that of its stages."""

    @pytest.mark.parametrize("changes", [
        {"state": states(3)[0]}, {"state": S2}, {"states": states(2)}, {"states": states(3)[:2]}, {"states": ()},
        {"states": tuple(reversed(states(3)))}, {"state": run_state(states(3))[:-1] + "1"},
        {"states": (*states(3)[:2], states(3)[2][:-1] + "1")},
    ])  # fmt: skip
    def test_has_no_form(self, ledger, changes):
        with pytest.raises(EntryInvalid, match="state"):
            settled(3, (), **changes)
        body = {**settled(3, ()).to_json(), **changes}
        ledger.forge(STAGED_LOG, [*DATA[STAGED_LOG], codec.encode(body)])
        assert (ledger.fault().entry, ledger.fault().rule.startswith("state")) == (END, True)

    def test_of_too_many_stages_is_refused(self, ledger, replica):
        more = (*states(3), blob("one more"))
        refused(ledger, replica, [*LOG, settled(3, (), states=more, state=run_state(more))], "states")

    def test_of_a_close_is_that_of_the_run(self, ledger, replica):
        refused(ledger, replica, [*LOG, Close(state=states(2)[0], reason="")], "state")
        ledger.forge(STAGED_LOG, [*LOG, Close(state=S2, reason="")])
        assert ledger.sound().ledger.runs[RUN].burned == 93


class TestLoss:
    """A loss said by a stage that cannot know it."""

    @pytest.mark.parametrize("key", [DRIVERS[1], MIDDLE[1]])
    def test_is_refused(self, ledger, replica, key):
        refused(ledger, replica, [*LOG, receipt(key, (4,), loss=1)], "loss")

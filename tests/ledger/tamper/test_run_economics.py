"""Economics of runs: rounds, receipts and slots paid twice, above what was set aside, or elsewhere."""

from dataclasses import replace

import pytest

from ledger.codec import MAX_INT
from ledger.entries import Begin, Close, Open, Seat, run_id
from ledger.errors import EntryInvalid
from tests.ledger.world import blob, spec_of

from .kit import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    END,
    GENESIS,
    LOGS,
    MALLORY,
    RUN,
    RUN_LOG,
    opened,
    receipt,
    settled,
)
from .lines import named

THIRD = END - 2  # where the third round was opened


class TestDoubleSettle:
    """A round, or a receipt in it, is paid twice."""

    def test_of_a_round_is_refused(self, ledger, replica):
        named(ledger, replica, [*LOGS[RUN_LOG], settled(3, END - 1), settled(3, END - 1)], "round")

    @pytest.mark.parametrize("round_", [1, 2])
    def test_of_an_earlier_round_is_refused(self, ledger, replica, round_):
        named(ledger, replica, [*LOGS[RUN_LOG], settled(round_, END - 1)], "round")

    @pytest.mark.parametrize("round_", [1, 2])
    def test_opening_a_settled_round_again_is_refused(self, ledger, replica, round_):
        again = replace(opened(round_), state=blob("after 2"))
        named(ledger, replica, [*LOGS[RUN_LOG], settled(3, END - 1), again], "round")

    @pytest.mark.parametrize("receipts", [(4,), (4, END - 1), (THIRD,), (0,), (END,)])
    def test_with_what_is_no_receipt_of_the_open_round_is_refused(self, ledger, replica, receipts):
        named(ledger, replica, [*LOGS[RUN_LOG], settled(3, *receipts)], "receipts")

    def test_of_one_receipt_in_one_settle_has_no_form(self):
        with pytest.raises(EntryInvalid, match="distinct ascending"):
            settled(3, END - 1, END - 1)
        with pytest.raises(EntryInvalid, match="distinct ascending"):
            settled(3, END - 1, 4)

    def test_after_the_close_is_refused(self, ledger, replica):
        close = Close(state=blob("after 2"), reason="")
        named(ledger, replica, [*LOGS[RUN_LOG], close, settled(3, END - 1)], "order")


class TestSettleAboveTheReservation:
    """A receipt claims more than its seat holds."""

    @pytest.mark.parametrize(("start", "count", "changes", "rule"), [
        (40, 11, {}, "slots"), (41, 10, {}, "slots"), (39, 2, {}, "slots"), (40, 10, {"tokens": 10_001}, "tokens"),
        (40, 10, {"tokens": MAX_INT}, "tokens"), (40, MAX_INT // 1000, {}, "slots"),
    ])  # fmt: skip
    def test_is_refused_with_the_receipt(self, ledger, replica, start, count, changes, rule):
        named(ledger, replica, [*LOGS[RUN_LOG], receipt(ALICE, 3, start, count, **changes)], rule)

    def test_what_is_paid_is_what_the_fold_computes_and_never_above_what_was_set_aside(self, ledger):
        ledger.forge(RUN_LOG, [*LOGS[RUN_LOG], receipt(ALICE, 3, 40, 10), settled(3, END - 1, END)])
        before, run = LOGS[RUN_LOG], ledger.sound().ledger.runs[RUN]
        assert run.paid == {ALICE.public: 30, BOB.public: 20}
        assert run.balance == 10**6 + 200 - 50
        assert len(before) == END


class TestReceiptFromOutsideTheRoster:
    """A receipt of somebody who was given no slots."""

    @pytest.mark.parametrize("key", [CAROL, DAVE, MALLORY])
    def test_is_refused_with_its_entry(self, ledger, replica, key):
        named(ledger, replica, [*LOGS[RUN_LOG], receipt(key, 3, 40, 1)], "account")

    def test_of_a_member_on_anothers_slots_is_refused(self, ledger, replica):
        log = [*LOGS[RUN_LOG][:-1], receipt(BOB, 3, 40, 1)]
        named(ledger, replica, log, "slots")

    def test_while_no_round_is_open_is_refused(self, ledger, replica):
        named(ledger, replica, [*LOGS[RUN_LOG][:THIRD], LOGS[RUN_LOG][-1]], "round")


class TestCrossRunOrCrossRoundReplay:
    """A good receipt once more, elsewhere."""

    def test_from_another_run(self, ledger, replica):
        other = run_id(spec_of(nonce="f" * 32))
        named(ledger, replica, [*LOGS[RUN_LOG], receipt(ALICE, 3, 40, 10, run=other)], "run")

    def test_from_another_network(self, ledger, replica):
        named(ledger, replica, [*LOGS[RUN_LOG], receipt(ALICE, 3, 40, 10, network="ab" * 32)], "network")

    @pytest.mark.parametrize("index", [4, 5, 8, 9])
    def test_from_an_earlier_round(self, ledger, replica, index):
        named(ledger, replica, [*LOGS[RUN_LOG], LOGS[RUN_LOG][index]], "round")

    def test_from_another_state_of_the_round(self, ledger, replica):
        named(ledger, replica, [*LOGS[RUN_LOG], receipt(ALICE, 3, 40, 10, state=blob("elsewhere"))], "state_in")

    @pytest.mark.parametrize("changes", [
        {"network": GENESIS.id}, {"run": RUN}, {"round": 3}, {"state_in": blob("after 2")}, {"slots": (40, 10)},
    ])  # fmt: skip
    def test_with_the_field_put_right_its_signature_tells(self, ledger, replica, changes):
        elsewhere = {
            "network": receipt(ALICE, 3, 40, 10, network="ab" * 32),
            "run": receipt(ALICE, 3, 40, 10, run="cd" * 32),
            "round": receipt(ALICE, 2, 40, 10, state=blob("after 2")),
            "state_in": receipt(ALICE, 3, 40, 10, state=blob("elsewhere")),
            "slots": receipt(ALICE, 3, 20, 10),
        }[next(iter(changes))]
        named(ledger, replica, [*LOGS[RUN_LOG], replace(elsewhere, **changes)], "signature")

    def test_within_its_own_round(self, ledger, replica):
        named(ledger, replica, [*LOGS[RUN_LOG], LOGS[RUN_LOG][-1]], "slots")

    def test_a_whole_log_under_another_runs_name(self, ledger, replica):
        spec = spec_of(nonce="e" * 32)
        origin = GENESIS.run_origin(run_id(spec))
        with pytest.raises(EntryInvalid, match="entry 0: run id"):
            replica.append(origin, LOGS[RUN_LOG], ALICE)
        with pytest.raises(EntryInvalid, match="entry 4: run"):
            replica.append(origin, [Begin(spec=spec), *LOGS[RUN_LOG][1:]], ALICE)


class TestOverlappingSlots:
    """Slots are given out to two, or again."""

    @pytest.mark.parametrize("seats", [
        [(ALICE, 60, 10), (BOB, 69, 10)], [(ALICE, 60, 10), (BOB, 60, 1)], [(ALICE, 65, 1), (BOB, 60, 10)],
        [(ALICE, 0, 10)], [(ALICE, 59, 1)], [(ALICE, 40, 20)],
    ])  # fmt: skip
    def test_are_refused_with_the_open(self, ledger, replica, seats):
        roster = tuple(Seat(key.public, start, quota) for key, start, quota in seats)
        log = [*LOGS[RUN_LOG], settled(3, END - 1), Open(round=4, state=blob("after 3"), roster=roster)]
        named(ledger, replica, log, "roster")

    def test_of_a_round_that_is_opened_again_are_new_ones(self, ledger, replica):
        named(ledger, replica, [*LOGS[RUN_LOG], replace(opened(3), state=blob("after 2"))], "roster")
        burned = replace(opened(3), roster=(Seat(BOB.public, 60, 10),))
        ledger.forge(RUN_LOG, [*LOGS[RUN_LOG], burned])
        assert ledger.sound().ledger.runs[RUN].burned == 20  # what the first open had set aside

    def test_two_receipts_for_one_seat_are_refused(self, ledger, replica):
        log = [*LOGS[RUN_LOG][:-1], receipt(BOB, 3, 50, 2), receipt(BOB, 3, 50, 4)]
        named(ledger, replica, log, "slots")

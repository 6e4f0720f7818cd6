"""What a run's log says where its model is cut into stages: seats, receipts and states; and the money of its tail.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.entries import Entry, Open, Receipt, Settle, StageReceipt
from ledger.fold.fold import fold
from peer.errors import RoundError
from peer.rounds.log import RunLog
from peer.rounds.tail import balance_after_tail, earned, why_wait
from tests.ledger.stage_world import DRIVERS, ENDS, MIDDLE, RUN, fund, opened, run_log, states
from tests.ledger.world import ALICE_LOG, GENESIS
from tests.peer.rounds_kit import BEGIN, PLAN, S0, begun

LOG = run_log(2)
STAGED = replace(PLAN, price=7777, tokens_per_slot=1000)


def followed(size: int, tail: int = 0) -> RunLog:
    """The log of the first entries, and a tail of so many beyond them."""
    log = RunLog()
    log.extend(LOG[:size])
    log.follow(LOG[size : size + tail])
    return log


def test_an_open_round_tells_who_holds_which_stage() -> None:
    log = followed(3)
    assert log.open is not None
    assert [(seat.stage, seat.start, seat.quota) for seat in log.open.roster] == [
        (0, 0, 8), (0, 8, 4), (1, 0, 12), (1, 0, 12), (2, 0, 12), (2, 0, 12),
    ]  # fmt: skip
    assert (log.next_slot, log.state) == (12, opened(1).state)
    assert log.stages is not None
    assert log.stages.states == states(0)


def test_a_settled_round_tells_who_served_what_and_every_stages_state() -> None:
    log = followed(len(LOG))
    first, second = log.settled
    assert (first.receipts, second.receipts) == ((), ())
    assert [(receipt.account, receipt.stage, receipt.served) for receipt in second.staged] == [
        (DRIVERS[0].public, 0, "0f"), (MIDDLE[0].public, 1, "03"), (MIDDLE[1].public, 1, "0c"),
        (ENDS[0].public, 2, "0a"), (ENDS[1].public, 2, "05"),
    ]  # fmt: skip
    assert (first.states, second.states) == (states(1), states(2))
    assert [log.states_after(number) for number in range(3)] == [states(number) for number in range(3)]
    with pytest.raises(RoundError):
        log.states_after(3)


def test_tokens_are_counted_once_and_not_for_every_stage() -> None:
    log = followed(len(LOG))
    assert [done.tokens for done in log.settled] == [12_000, 8_000]
    assert log.tokens == 20_000


def test_an_account_is_told_its_updates_of_a_stage() -> None:
    done = [entry for entry in LOG if isinstance(entry, StageReceipt) and entry.account == ENDS[0].public]
    wanted = [{"round": receipt.round, "update": receipt.update} for receipt in done]
    assert followed(len(LOG)).settled_of(ENDS[0].public) == wanted


@pytest.mark.parametrize("size", range(2, len(LOG)))
def test_a_tail_counts_and_gives_way_without_a_trace(size: int) -> None:
    log, wanted = followed(size, len(LOG)), followed(size)
    assert log.round == 2
    assert log.uncertified == sum(entry.type == "stage_open" for entry in LOG[size:])
    log.follow(())
    assert {**vars(log), "drops": 0} == {**vars(wanted), "drops": 0}
    log.extend(LOG[size:])
    assert {**vars(log), "drops": 0} == {**vars(followed(len(LOG))), "drops": 0}


def balance_at(size: int) -> int:
    """What the run can spend after so many entries, as the ledger's fold has it."""
    prefixes: dict[str, list[Entry]] = {ALICE_LOG: fund(), GENESIS.run_origin(RUN): LOG[:size]}
    return fold(prefixes, GENESIS.terms).runs[RUN].balance  # type: ignore[arg-type]


@pytest.mark.parametrize("size", range(2, len(LOG)))
def test_the_money_of_a_tail_is_what_the_fold_will_say(size: int) -> None:
    for end in range(size, len(LOG) + 1):
        log = followed(size, end - size)
        assert balance_after_tail(STAGED, log, balance_at(size)) == balance_at(end)
    assert [earned(STAGED, log, done) for done in log.settled] == [91, 59]


def test_members_wait_with_a_tail_of_too_many_rounds() -> None:
    plan = replace(STAGED, max_uncertified=1)
    assert "2 rounds are opened" in why_wait(plan, LOG[2:])
    assert why_wait(plan, LOG[2:9]) == ""


def test_a_run_without_stages_is_seen_as_before() -> None:
    roster = ((DRIVERS[0].public, 0, 4),)
    log = begun(Open(round=1, state=S0, roster=roster))  # type: ignore[arg-type]
    assert (log.stages, log.states_after(0)) == (None, ())
    assert log.open is not None
    assert log.open.roster[0].stage == 0
    log.extend([Settle(round=1, receipts=(), state=S0)])
    assert (log.settled[0].staged, log.settled[0].states, log.settled[0].tokens) == ((), (), 0)
    assert log.states_after(1) == ()
    assert not any(isinstance(entry, Receipt) for entry in LOG)
    assert BEGIN.stages is None

"""What the tests of the round machines build on: a plan, a run log, receipts, and a leader with its log carried out.

Pure: no clock; tests say what time it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ledger.entries import Begin, Close, Entry, Open, Receipt, Seat, Settle, Slots
from peer.rounds import messages as rounds
from peer.rounds.lead import LeaderMachine
from peer.rounds.log import RunLog
from peer.rounds.messages import ApplyRound, Check, LeaderEffect, Log, Report
from peer.rounds.plan import Plan

QUOTA = 4
TOKENS = 16
STATE_BYTES = 1000


def digest(name: str) -> str:
    """64 hex digits that stand for a name."""
    return sha256(name.encode()).hexdigest()


def blob(name: str, size: int = STATE_BYTES) -> str:
    """A blob id that stands for a name."""
    return f"{digest(name)}-{size}"


A, B, C, D = (digest(f"account {name}") for name in "abcd")
S0, S1, S2, S3 = (blob(f"state {number}") for number in range(4))

PLAN = Plan(
    network=digest("network"),
    run=digest("run"),
    rounds=3,
    quota=QUOTA,
    batch_size=QUOTA,
    tokens_per_slot=TOKENS,
    price=1_000_000,
    min_members=2,
    max_members=8,
    evaluate_every=0,
    time_budget_s=5.0,
)
SEAT = PLAN.worth(QUOTA)


_FILE = blob("file", 7)
BEGIN = Begin(
    spec={
        "version": 1, "name": "test", "submitter": A, "leaders": [A], "price": PLAN.price, "tokens_per_slot": TOKENS,
        "slots_per_epoch": 100, "rounds": PLAN.rounds, "nonce": "ab" * 16, "config": {},
        "blobs": {"model": _FILE, "tokenizer": _FILE, "manifest": _FILE, "state": S0},
    }
)  # fmt: skip


def begun(*entries: Entry) -> RunLog:
    """A run log that has begun, and goes on with these entries."""
    log = RunLog()
    log.extend([BEGIN, *entries])
    return log


def opened(number: int, state: str, accounts: Sequence[str], slot: int = 0) -> Open:
    """The open of a round, seats in order from `slot` on."""
    seats = tuple(Seat(account, slot + place * QUOTA, QUOTA) for place, account in enumerate(accounts))
    return Open(round=number, state=state, roster=seats)


def receipt(account: str, *, number: int = 1, state: str = S0, start: int = 0, update_bytes: int = 10) -> Receipt:
    """An honest receipt for a whole quota."""
    return Receipt(
        network=PLAN.network,
        run=PLAN.run,
        round=number,
        account=account,
        state_in=state,
        update=blob(f"update {account} {number}", update_bytes),
        tokens=QUOTA * TOKENS,
        slots=Slots(start, QUOTA),
        loss=2_500_000,
        steps=2,
        leaves=digest("leaves"),
        signature="00" * 64,
    )


def settled_round(number: int, state_in: str, state: str, log_size: int, update_bytes: int = 10) -> list[Entry]:
    """The entries of a whole round in which A took part alone; `log_size` is where they start."""
    slot = (number - 1) * QUOTA
    given = receipt(A, number=number, state=state_in, start=slot, update_bytes=update_bytes)
    settle = Settle(round=number, receipts=(log_size + 1,), state=state)
    return [opened(number, state_in, [A], slot), given, settle]


def closed(state: str) -> Close:
    """The end of a run."""
    return Close(state=state, reason="all rounds settled")


class Bench:
    """A leader whose appends are certified at once, and which keeps what else it asked for."""

    def __init__(self, plan: Plan = PLAN, log: RunLog | None = None, *, balance: int = 1000 * SEAT, now: float = 0.0):
        self.plan = plan
        self.log = log if log is not None else begun()
        self.balance = balance
        self.now = now
        self.machine = LeaderMachine(plan=plan, log=self.log, balance=balance, now=now)
        self.logged: list[Entry] = []
        self.asked: list[LeaderEffect] = []
        self.reserved = 0
        """Worth of the open round's seats."""

    def tell(self, *messages: rounds.LeaderMessage, certify: bool = True) -> list[LeaderEffect]:
        """Give messages one after the other; returns all effects, appends already certified."""
        effects: list[LeaderEffect] = []
        for message in messages:
            effects += self._carry_out(self.machine.receive(message, self.now), certify)
        return effects

    def at(self, now: float) -> list[LeaderEffect]:
        """Let the time come."""
        self.now = now
        return self._carry_out(self.machine.tick(now), True)

    def _carry_out(self, effects: list[LeaderEffect], certify: bool) -> list[LeaderEffect]:
        self.asked += effects
        for effect in effects:
            if isinstance(effect, Log) and certify:
                self.log.extend(effect.entries)
                self.logged += effect.entries
                effects = effects + self.tell(rounds.Logged(balance=self._pay(effect.entries)))
        return effects

    def _pay(self, entries: Sequence[Entry]) -> int:
        for entry in entries:
            if isinstance(entry, Open):
                self.reserved = sum(self.plan.worth(seat.quota) for seat in entry.roster)
                self.balance -= self.reserved
            elif isinstance(entry, Receipt):
                self.balance -= self.plan.worth(entry.slots.count)
            elif isinstance(entry, Settle):
                self.balance += self.reserved
        return self.balance

    def beat(self, *accounts: str, state: str = S0) -> list[LeaderEffect]:
        """Heartbeats of these accounts."""
        return self.tell(*(rounds.Beat(account=account, state=state) for account in accounts))

    def stay(self, until: float, *accounts: str, state: str = S0) -> list[LeaderEffect]:
        """Let time pass in seconds while these accounts' heartbeats arrive."""
        effects: list[LeaderEffect] = []
        while self.now < until:
            effects += self.at(min(self.now + 1.0, until))
            effects += self.beat(*accounts, state=state)
        return effects

    def open_receipt(self, account: str) -> Receipt:
        """The honest receipt of an account for the open round."""
        open_round = self.log.open
        assert open_round is not None
        seat = open_round.seat(account)
        start = seat.start if seat is not None else 0
        return receipt(account, number=open_round.round, state=open_round.state, start=start)

    def deliver(self, *accounts: str, refusal: tuple[str, str] | None = None) -> list[LeaderEffect]:
        """Receipts of these accounts arrive and their updates are decoded."""
        effects: list[LeaderEffect] = []
        for account in accounts:
            given = self.open_receipt(account)
            effects += self.tell(rounds.Delivered(receipt=given))
            effects += self.tell(rounds.Checked(account=account, update=given.update, refusal=refusal))
        return effects

    def settle(self, state: str, *accounts: str) -> list[LeaderEffect]:
        """These accounts deliver; the round that is cut leads to `state`."""
        number = self.log.round + 1
        effects = self.deliver(*accounts)
        return effects + self.tell(rounds.Applied(round=number, state=state))


def applies(effects: Sequence[LeaderEffect]) -> list[tuple[str, ...]]:
    """The accounts of every `ApplyRound` among the effects."""
    return [tuple(r.account for r in e.receipts) for e in effects if isinstance(e, ApplyRound)]


def reports(effects: Sequence[LeaderEffect], event: str) -> list[dict[str, object]]:
    """The fields of every report of that event."""
    return [effect.fields for effect in effects if isinstance(effect, Report) and effect.event == event]


def checks(effects: Sequence[LeaderEffect]) -> list[str]:
    """Accounts whose update is to be decoded."""
    return [effect.receipt.account for effect in effects if isinstance(effect, Check)]

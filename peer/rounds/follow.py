"""A member's round machine: catch up with the log, train on our seat, deliver the receipt, go on.

The worker does one thing at a time, so at most one of load, replay and train is under way. Whatever was asked for and
broke is asked for again after a pause; a replay that cannot be done becomes a snapshot.

Pure: fed `receive(message, now)` and `tick(now)`; `now` is seconds on any monotonic clock.
"""

from __future__ import annotations

from peer.rounds.log import OpenRound, RunLog
from peer.rounds.messages import (
    Answered,
    Broke,
    Deliver,
    Holds,
    Load,
    LogGrew,
    MemberEffect,
    MemberMessage,
    Redeliver,
    Replay,
    Stop,
    Train,
    Trained,
)

Effects = list[MemberEffect]

RETRY_S = 1.0
"""Pause before an effect that broke is tried again."""
MAX_RETRY_S = 15.0


class MemberMachine:
    """One account's part in one run. `log` is shared with the daemon, which extends it before it says `LogGrew`."""

    def __init__(
        self,
        *,
        account: str,
        log: RunLog,
        state_bytes: int,
        held: tuple[int, str] | None,
        promised: tuple[int, str] | None,
    ) -> None:
        """Start, or start again, where the home folder stands.

        Args:
            account: our account.
            log: the run's log as far as we have it.
            state_bytes: size of a state snapshot, against which replaying is weighed.
            held: (round, state id) that the worker holds, if it holds one.
            promised: (round, state id it started from) of a receipt that we signed before a restart.
        """
        self.account = account
        self.log = log
        self.held = held
        self.busy: MemberEffect | None = None
        """The load, replay or training under way."""
        self._state_bytes = state_bytes
        self._promised = promised
        self._undelivered: Deliver | Redeliver | None = None
        self._delivering = False
        self._done_round = 0
        """Newest round for which we have trained (or need not)."""
        self._snapshot_wanted = False
        self._broken = 0
        self._wait_until = 0.0

    @property
    def state(self) -> str:
        """Id of the state that the worker holds; empty while it has none or is changing it."""
        return self.held[1] if self.held is not None else ""

    @property
    def deadline(self) -> float | None:
        """When `tick` should be called after something broke; None if only a message can help."""
        return self._wait_until or None

    @property
    def finished(self) -> bool:
        """The run is closed and we hold its final state."""
        return self.log.close is not None and self.held is not None and self.held[1] == self.log.state

    # ------------------------------------------------------------------ input

    def receive(self, message: MemberMessage, now: float) -> Effects:
        """Take one message; returns what to do next."""
        match message:
            case LogGrew():
                pass
            case Holds():
                self.held, self.busy, self._broken = (message.round, message.state), None, 0
                self._snapshot_wanted = self._astray(message.round, message.state)
            case Trained():
                self._trained(message)
            case Answered():
                self._answered(message)
            case Broke():
                self._broke(message, now)
        return self._next(now)

    def tick(self, now: float) -> Effects:
        """Try again what broke, once its pause is over."""
        return self._next(now)

    # ------------------------------------------------------------------ taking messages

    def _astray(self, round_number: int, state: str) -> bool:
        """Whether this state differs from what the log says it must be after the round."""
        return round_number <= self.log.round and self.log.state_after(round_number) != state

    def _trained(self, message: Trained) -> None:
        done, self.busy = self.busy, None
        if not isinstance(done, Train) or message.round != done.open.round:
            return
        self._done_round = message.round
        if message.slots:
            self._undelivered, self._delivering = Deliver(open=done.open, trained=message), False

    def _answered(self, message: Answered) -> None:
        waiting = self._undelivered
        self._delivering = False
        if waiting is not None and _round_of(waiting) == message.round:
            self._undelivered = None  # taken, or refused for good: either way this round is over for us

    def _broke(self, message: Broke, now: float) -> None:
        self._broken += 1
        self._wait_until = now + min(RETRY_S * 2 ** (self._broken - 1), MAX_RETRY_S)
        if isinstance(message.effect, Deliver | Redeliver):
            self._delivering = False
            return
        self.busy = None
        if isinstance(message.effect, Replay):
            self._snapshot_wanted = True
        if isinstance(message.effect, Train):
            self._done_round = message.effect.open.round  # this round is lost for us, the next is not

    # ------------------------------------------------------------------ deciding

    def _next(self, now: float) -> Effects:
        if now < self._wait_until:
            return []
        self._wait_until = 0.0
        effects = self._deliver()
        if self.busy is None:
            effects += self._start()
        elif isinstance(self.busy, Train) and self._over(self.busy.open):
            effects.append(Stop())
        return effects

    def _over(self, open_round: OpenRound) -> bool:
        """Whether this round is no longer the open one."""
        return self.log.open is None or self.log.open.index != open_round.index

    def _deliver(self) -> Effects:
        waiting = self._undelivered
        if waiting is None or self._delivering:
            return []
        if self.log.open is None or self.log.open.round != _round_of(waiting):
            self._undelivered = None  # settled without us
            return []
        self._delivering = True
        return [waiting]

    def _start(self) -> Effects:
        behind = self.held is None or self.held[0] < self.log.round or self._snapshot_wanted
        step = self._catch_up() if behind else self._work()
        if step is None:
            return []
        if isinstance(step, Redeliver):
            return self._deliver()
        self.busy = step
        return [step]

    def _catch_up(self) -> MemberEffect:
        held = self.held
        if held is None or self._snapshot_wanted or self._astray(*held) or self._snapshot_is_smaller(held[0]):
            self._snapshot_wanted, self.held = False, None
            return Load(round=self.log.round, state=self.log.state)
        return Replay(settled=self.log.settled[held[0]])

    def _snapshot_is_smaller(self, held_round: int) -> bool:
        missed = self.log.settled[held_round:]
        return len(missed) > 1 and sum(_bytes(r.update) for done in missed for r in done.receipts) > self._state_bytes

    def _work(self) -> MemberEffect | None:
        open_round = self.log.open
        if open_round is None or open_round.round <= self._done_round or self.held is None:
            return None
        seat = open_round.seat(self.account)
        if seat is None or open_round.state != self.held[1]:
            return None
        if self._promised == (open_round.round, open_round.state):
            self._promised, self._done_round = None, open_round.round
            self._undelivered = Redeliver(round=open_round.round)
            return self._undelivered
        return Train(open=open_round, start=seat.start, quota=seat.quota)


def _round_of(delivery: Deliver | Redeliver) -> int:
    return delivery.open.round if isinstance(delivery, Deliver) else delivery.round


def _bytes(blob: str) -> int:
    """Length in bytes that a blob id names."""
    return int(blob.rpartition("-")[2])

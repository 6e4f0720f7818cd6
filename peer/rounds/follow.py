"""A member's round machine: catch up with the log, train on our seat, deliver the receipt, go on.

The worker does one thing at a time, so at most one of load, replay and train is under way. Whatever was asked for and
broke is asked for again after a pause; a replay that cannot be done becomes a snapshot, and a snapshot a replay.
After its delivery it applies what the leader says the round is cut with (`cut`), before that is settled. With overlap
it trains on instead (`ahead`); what is settled meanwhile is replayed when that is done.

Pure: fed `receive(message, now)` and `tick(now)`; `now` is seconds on any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection

from peer.rounds.ahead import Ahead
from peer.rounds.cut import ApplyCut, Cut, Foresight
from peer.rounds.delivery import Delivery, Promise
from peer.rounds.log import OpenRound, RunLog
from peer.rounds.messages import (
    Answered,
    Broke,
    Deliver,
    Finish,
    Holds,
    Load,
    LogGrew,
    MemberEffect,
    MemberMessage,
    Paused,
    Redeliver,
    Replay,
    Stop,
    Train,
    TrainAhead,
    Trained,
    TrainedAhead,
    Welcomed,
)
from peer.rounds.pause import Pause

Effects = list[MemberEffect]
MOST_PROMISES = 16
"""No log goes back by more rounds."""


class MemberMachine:
    """One account's part in one run. `log` is shared with the daemon, which extends it before it says `LogGrew`."""

    def __init__(
        self,
        *,
        account: str,
        log: RunLog,
        state_bytes: int,
        held: tuple[int, str] | None,
        promised: Collection[Promise],
        ahead: Ahead | None = None,
    ) -> None:
        """Start, or start again, where the home folder stands.

        Args:
            account: our account.
            log: the run's log as far as we have it.
            state_bytes: size of a state snapshot, against which replaying is weighed.
            held: (round, state id) that the worker holds, if it holds one.
            promised: receipts that we signed before a restart.
            ahead: our work ahead, in a run with overlap.
        """
        self.account = account
        self.log = log
        self.held = held
        self.busy: MemberEffect | None = None
        """The load, replay or training under way."""
        self._state_bytes = state_bytes
        self._promised = list(promised)
        self._ahead = ahead
        self._foresight = Foresight()
        self._delivery = Delivery()
        self._done_round = 0
        """Newest round for which we have trained (or need not)."""
        self._go_back = held is not None and held[0] > log.round
        """We hold a state that never got into the log."""
        self._drops = log.drops
        self._outdated: MemberEffect | None = None
        """What was under way when the log went back."""
        self._broken: type[MemberEffect] | None = None
        """Which way of catching up broke last."""
        self._held_before: tuple[int, str] | None = None
        self._stopping = False
        self._leaving = False
        self._pause = Pause()

    @property
    def state(self) -> str:
        """Id of the state that the worker holds, or held before a guess; empty while it has none or is changing it."""
        held = self.held
        return (self._foresight.before(self.log, held) or held)[1] if held is not None else ""

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do; None if only a message can help."""
        times = [self._delivery.due, self._pause.until if self.busy is None else 0.0]
        return min((time for time in times if time), default=None)

    @property
    def finished(self) -> bool:
        """The run is closed and we hold its final state."""
        return self.log.close is not None and self.held is not None and self.held[1] == self.log.state

    @property
    def quiet(self) -> bool:
        """Nothing is trained or on its way to the leader: a member that pauses may go."""
        working = isinstance(self.busy, Train | TrainAhead | Finish) or self._finishing
        return not working and not self._delivery.under_way

    @property
    def _finishing(self) -> bool:
        """Whether work ahead can be delivered in the open round, as soon as we hold its state."""
        return self._ahead is not None and self._ahead.deliverable(self.log)

    # ------------------------------------------------------------------ input

    def receive(self, message: MemberMessage, now: float) -> Effects:
        """Take one message; returns what to do next."""
        self._follow_back()
        match message:
            case LogGrew():
                pass
            case Holds():
                self.held, self.busy = (message.round, message.state), None
                self._go_back = self._outdated is not None and message.round > self.log.round
                self._broken = self._outdated = None
                self._pause.rest(0.0)
            case Trained():
                self._trained(message)
            case TrainedAhead():
                self._trained_ahead(message)
            case Answered():
                self._delivery.answered(message, now)
            case Broke():
                self._broke(message.effect, now)
            case Welcomed():
                self._delivery.remind()
            case Paused():
                self._leaving = True
            case Cut():
                self._foresight.hear(message, self.log)
        return self._next(now)

    def tick(self, now: float) -> Effects:
        """Try again what broke, once its pause is over."""
        return self._next(now)

    # ------------------------------------------------------------------ taking messages

    def _trained(self, message: Trained) -> None:
        done = self.busy
        if not isinstance(done, Train | Finish) or message.round != done.open.round:
            return
        self.busy = None
        self._pause.rest(0.0)
        if isinstance(done, Finish) and self._ahead is not None:
            self._ahead.forget()
        if self._over(done.open):
            return
        self._done_round = message.round
        seat = done.open.seat(self.account)
        if message.slots and seat is not None:
            earlier = [promise for promise in self._promised if promise.round < message.round]
            promise = Promise(message.round, done.open.state, seat.start, message.slots)
            self._promised = [*earlier[-MOST_PROMISES:], promise]
            self._delivery.start(Deliver(open=done.open, trained=message))
            if self._ahead is not None:
                self._ahead.delivered(done, message.update)

    def _trained_ahead(self, message: TrainedAhead) -> None:
        done = self.busy
        if isinstance(done, TrainAhead) and message.round == done.basis.round and self._ahead is not None:
            self.busy = None
            self._pause.rest(0.0)
            self._ahead.trained(done, message)

    def _broke(self, effect: MemberEffect, now: float) -> None:
        if isinstance(effect, Deliver | Redeliver):
            self._delivery.broke(effect, now)
        elif effect == self.busy:
            self.busy = None
            if isinstance(effect, ApplyCut):
                return  # nothing rests on it
            self._pause.failed(now)
            if isinstance(effect, Load | Replay):
                self._broken = type(effect)
            if isinstance(effect, Load):
                self.held = self._held_before
            if isinstance(effect, Finish) and self._ahead is not None:
                self._ahead.forget()

    # ------------------------------------------------------------------ deciding

    def _next(self, now: float) -> Effects:
        self._follow_back()
        self._keep_promise()
        effects = self._delivery.next(self.log, now)
        if self._in_vain() and not self._stopping:
            self._stopping = True
            effects.append(Stop())
        if self._ahead is not None:
            effects += self._ahead.leave(self.log) if self._leaving else self._ahead.throw_away(self.log)
        if self.busy is None and self._pause.over(now) and self.log.state and (not self._leaving or self._finishing):
            self._pause.until = 0.0
            self.busy = self._catch_up() if self._behind() else self._work()
            self._stopping = False
            effects += [self.busy] if self.busy is not None else []
        return effects

    def _over(self, open_round: OpenRound) -> bool:
        """Whether this round is no longer the open one."""
        return self.log.open != open_round

    def _follow_back(self) -> None:
        """If a tail of the log gave way: what we hold and did beyond what is certified never counts."""
        if self._drops == self.log.drops:
            return
        self._drops = self.log.drops
        self._go_back = self.held is not None and self.held[0] > self.log.round
        self._outdated = self.busy if isinstance(self.busy, Load | Replay | ApplyCut) else None
        self._done_round = min(self._done_round, self.log.round)
        self._delivery = Delivery()

    def _in_vain(self) -> bool:
        """Whether a training is under way that shall not go on."""
        match self.busy:
            case Train():
                return self._leaving or self._over(self.busy.open)
            case TrainAhead():
                return self._leaving or self._ahead is None or self._ahead.in_vain(self.busy, self.log)
        return False

    def _keep_promise(self) -> None:
        """A receipt that we signed for this very round is delivered, whatever the worker holds; never another."""
        open_round = self.log.open
        if open_round is None or open_round.round <= self._done_round:
            return
        if any(promise.fits(open_round, self.account) for promise in self._promised):
            self._done_round = open_round.round
            self._delivery.start(Redeliver(round=open_round.round))

    def _astray(self, round_number: int, state: str) -> bool:
        """Whether this state differs from what the log says it must be after the round."""
        return round_number <= self.log.round and self.log.state_after(round_number) != state

    def _behind(self) -> bool:
        return self.held is None or self._go_back or self.held[0] < self.log.round or self._astray(*self.held)

    def _catch_up(self) -> MemberEffect:
        held = self.held
        if held is not None and held[0] < self.log.round and not self._astray(*held) and self._replays(held[0]):
            return Replay(settled=self.log.settled[held[0]])
        self._held_before, self.held = held, None
        before = self._foresight.back(held) if held is not None and not self._go_back else None
        number, state = before or (self.log.round, self.log.state)
        return Load(round=number, state=state)

    def _replays(self, held_round: int) -> bool:
        """Whether to replay rather than to load a snapshot: the other way than what broke last, else by size."""
        if self._broken is not None:
            return self._broken is Load
        missed = self.log.settled[held_round:]
        update_bytes = sum(_bytes(receipt.update) for done in missed for receipt in done.receipts)
        return len(missed) == 1 or update_bytes <= self._state_bytes

    def _work(self) -> MemberEffect | None:
        open_round = self.log.open
        if open_round is None or open_round.round <= self._done_round or self.held is None:
            return self._idle()
        seat = open_round.seat(self.account)
        if seat is None or open_round.state != self.held[1]:
            return None if self._ahead is not None else self._idle()
        if self._ahead is not None:
            return self._ahead.work(self.log)
        return Train(open=open_round, start=seat.start, quota=seat.quota)

    def _idle(self) -> MemberEffect | None:
        """What to do until the round is settled."""
        if self._ahead is not None:
            return self._ahead.idle(self.log)
        return self._foresight.apply(self.log, self.held) if self.held is not None else None


def _bytes(blob: str) -> int:
    """Length in bytes that a blob id names."""
    return int(blob.rpartition("-")[2])

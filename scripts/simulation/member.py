"""A simulated volunteer: carries out what the daemon's own MemberMachine asks for, as long as it is online.

What is on its disk outlives a session: the state it held, and a receipt that it signed.

Pure: time is the world's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ledger.entries import Receipt, Slots
from peer.errors import RoundError
from peer.rounds import messages as rounds
from peer.rounds.delivery import Promise
from peer.rounds.follow import MemberMachine
from peer.rounds.log import RunLog
from peer.rounds.messages import Deliver, Load, MemberEffect, Redeliver, Replay, Stop, Train
from scripts.simulation.people import Person

if TYPE_CHECKING:
    from scripts.simulation.world import World

LOAD_S = 8e-9
"""Seconds for each parameter to hash a snapshot and load it into the worker."""


class SimMember:
    """One volunteer; each session is a new life with a new machine."""

    def __init__(self, world: World, person: Person, held: tuple[int, str] | None) -> None:
        """Offline; `held` is the state on its disk."""
        self.world = world
        self.person = person
        self.name = person.name
        self.alive = False
        self.life = 0
        self.machine = self._machine(held)
        self._receipt: Receipt | None = None
        self._training_since: float | None = None
        self._job = 0
        """Counts trainings, so that the end of one that was stopped is not taken for another's."""
        self._since = 0.0
        """When this session began."""
        self._line_free_at = 0.0
        """When what it fetched so far in this session was here."""
        self._tick_at = 0.0

    def _machine(self, held: tuple[int, str] | None) -> MemberMachine:
        receipt = self._receipt if self.life else None
        return MemberMachine(
            account=self.name,
            log=self.world.view,
            state_bytes=self.world.settings.state_bytes,
            held=held,
            promised=[Promise(receipt.round, receipt.state_in, *receipt.slots)] if receipt else [],
        )

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """A session begins: with the newest log, and what the disk has."""
        self.life += 1
        self.alive, self._since = True, self.world.clock.now
        self._line_free_at = self._since
        self.machine = self._machine(self.machine.held)
        self._tick_at = 0.0
        self.world.leader.tell(rounds.Beat(account=self.name, state=self.machine.state))
        self._tell(rounds.LogGrew())

    def end(self, *, crash: bool) -> None:
        """It ends, without a word or with one."""
        self.world.leader.sweep_now()
        self._trained_until_now()
        self.world.tally.online_s += self.world.clock.now - self._since
        self.world.tally.could_train_slots += (self.world.clock.now - self._since) * self.person.slots_per_s
        self.alive = False
        if not crash:
            self.world.leader.tell(rounds.Left(account=self.name, reason="goodbye"))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Carry out `action` later, if this session lasts so long."""
        life = self.life

        def act() -> None:
            if self.alive and self.life == life:
                action()

        self.world.clock.at(self.world.clock.now + seconds, act)

    # ------------------------------------------------------------------ machine

    def learn(self, view: RunLog) -> None:
        """The leader's news arrived."""
        if view.size > self.machine.log.size:
            self.machine.log = view
            self._tell(rounds.LogGrew())

    def _tell(self, message: rounds.MemberMessage) -> None:
        self._carry_out(self.machine.receive(message, self.world.clock.now))

    def _carry_out(self, effects: list[MemberEffect]) -> None:
        for effect in effects:
            self._do(effect)
        deadline = self.machine.deadline
        if deadline is not None and deadline != self._tick_at:
            self._tick_at = deadline
            self.after(deadline - self.world.clock.now, lambda: self._tick(deadline))

    def _tick(self, planned: float) -> None:
        if planned == self._tick_at:
            self._tick_at = 0.0
            self._carry_out(self.machine.tick(max(self.world.clock.now, planned)))

    # ------------------------------------------------------------------ effects

    def _do(self, effect: MemberEffect) -> None:
        match effect:
            case Load():
                self._load(effect)
            case Replay():
                self._replay(effect)
            case Train():
                self._train(effect)
            case Stop():
                self._stop()
            case Deliver():
                self._receipt = self._sign(effect)
                self.after(self.person.latency_s, self._deliver)
            case Redeliver():
                self.after(self.person.latency_s, self._deliver)

    def _load(self, effect: Load) -> None:
        world, size = self.world, self.world.settings.state_bytes
        world.tally.snapshots += 1
        world.tally.moved("members", "members", size)
        fetching_s = size / world.scheme.line(self.person)
        self._line_free_at = world.clock.now + fetching_s
        seconds = fetching_s + LOAD_S * world.settings.parameters
        self.after(seconds, lambda: self._holds(effect.round, effect.state))

    def _replay(self, effect: Replay) -> None:
        settled, scheme, now = effect.settled, self.world.scheme, self.world.clock.now
        here_at = self._line_free_at = scheme.replayed(settled.round, self.person, now, self._line_free_at)
        seconds = here_at - now + scheme.replay_s(len(settled.receipts))
        self.after(seconds, lambda: self._holds(settled.round, settled.state))

    def _holds(self, round_number: int, state: str) -> None:
        self._tell(rounds.Holds(round=round_number, state=state))

    def _train(self, effect: Train) -> None:
        settings, now = self.world.settings, self.world.clock.now
        self._training_since, self._job = now, self._job + 1
        job = self._job
        self.world.tally.phases["started"].append(now - self.world.leader.opened_at)
        begins = now if settings.ends == "own" else self.world.leader.opened_at
        left_s = begins + settings.time_budget_s - now
        seconds = min(effect.quota / self.person.slots_per_s, max(left_s, 1 / self.person.slots_per_s))
        self.after(seconds, lambda: self._trained(effect) if self._job == job else None)

    def _stop(self) -> None:
        effect = self.machine.busy
        if isinstance(effect, Train) and self._training_since is not None:
            self._job += 1
            self._trained(effect)

    def _trained(self, effect: Train) -> None:
        seconds = self._trained_until_now()
        slots = max(1, min(effect.quota, int(seconds * self.person.slots_per_s + 1e-6)))
        settings = self.world.settings
        trained = rounds.Trained(
            round=effect.open.round,
            update=self.world.blob(f"{self.name}/{effect.open.round}/{self.life}", settings.update_bytes),
            tokens=slots * settings.tokens_per_slot,
            slots=slots,
            loss=2_000_000,
            steps=-(-slots // settings.batch_size),
            leaves="ab" * 32,
        )
        self._tell(trained)

    def _trained_until_now(self) -> float:
        since, self._training_since = self._training_since, None
        seconds = self.world.clock.now - since if since is not None else 0.0
        self.world.tally.training_s += seconds
        return seconds

    # ------------------------------------------------------------------ receipts

    def _sign(self, effect: Deliver) -> Receipt:
        trained, plan = effect.trained, self.world.plan
        seat = effect.open.seat(self.name)
        assert seat is not None, "a delivery without a seat"
        return Receipt(
            network=plan.network,
            run=plan.run,
            round=trained.round,
            account=self.name,
            state_in=effect.open.state,
            update=trained.update,
            tokens=trained.tokens,
            slots=Slots(seat.start, trained.slots),
            loss=trained.loss,
            steps=trained.steps,
            leaves=trained.leaves,
            signature="00" * 64,
        )

    def _deliver(self) -> None:
        receipt, refusal = self._receipt, None
        assert receipt is not None
        try:
            self.world.leader.tell(rounds.Delivered(receipt=receipt))
        except RoundError as exc:
            refusal = (exc.code, exc.message)
        answer = rounds.Answered(round=receipt.round, refusal=refusal)
        self.after(self.person.latency_s, lambda: self._tell(answer))

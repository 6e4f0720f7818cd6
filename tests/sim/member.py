"""The member role of a simulated node: carries out a MemberMachine's effects as `peer.runs.member` does.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger.entries import Receipt, Slots
from peer.rounds import messages as rounds
from peer.rounds.ahead import Ahead
from peer.rounds.cut import ApplyCut
from peer.rounds.delivery import Promise
from peer.rounds.follow import MemberMachine
from peer.rounds.messages import (
    Basis,
    Deliver,
    Finish,
    Load,
    MemberEffect,
    Redeliver,
    Replay,
    Stop,
    ThrowAway,
    Train,
    TrainAhead,
)
from tests.sim.net import Failure
from tests.sim.worker import STATE_BYTES, Job, applied, blob

if TYPE_CHECKING:
    from tests.sim.node import Node

BEAT_S = 1.0
HONEST_REFUSALS = {"FP-411", "FP-420", "FP-421"}
"""What a leader that is busy, starting or restarted may answer to an honest receipt."""


class SimMember:
    """A member's daemon."""

    def __init__(self, node: Node) -> None:
        """Load the newest state that the disk has and the log knows, then take part."""
        self.node = node
        self.world = node.world
        self.machine = self._machine(None)
        self._tick_at = 0.0
        self._work: tuple[Basis, int, float] | None = None
        """What was trained ahead, how many slots of it, and for how long."""
        known = [node.log.state_after(number) for number in range(node.log.round, -1, -1)] if node.log.size else []
        held = next(((node.log.round_of(s) or 0, s) for s in known if s in node.disk.states), None)
        self._after(node.traits.load_s if held else 0.1, lambda: self._start(held))

    def _machine(self, held: tuple[int, str] | None) -> MemberMachine:
        return MemberMachine(
            account=self.node.name,
            log=self.node.log,
            state_bytes=STATE_BYTES,
            held=held,
            promised=[Promise(r.round, r.state_in, *r.slots) for r in self.node.disk.promises],
            ahead=Ahead(account=self.node.name, plan=self.world.plan) if self.world.plan.overlap else None,
        )

    def _start(self, held: tuple[int, str] | None) -> None:
        self.node.state = held[1] if held else ""
        self.machine = self._machine(held)
        self._beat()
        self.tell(rounds.LogGrew())

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self.node.after(seconds, action)

    # ------------------------------------------------------------------ machine

    def tell(self, message: rounds.MemberMessage) -> None:
        """Give the machine a message and start what it asks for."""
        self._carry_out(self.machine.receive(message, self.world.clock.now))

    def _carry_out(self, effects: list[MemberEffect]) -> None:
        for effect in effects:
            self._after(0.001, lambda effect=effect: self._do(effect))  # type: ignore[misc]
        deadline = self.machine.deadline
        if deadline is not None and deadline != self._tick_at:
            self._tick_at = deadline
            self._after(deadline - self.world.clock.now, lambda: self._tick(deadline))

    def _tick(self, planned: float) -> None:
        if planned == self._tick_at:
            self._tick_at = 0.0
            self._carry_out(self.machine.tick(max(self.world.clock.now, planned)))

    # ------------------------------------------------------------------ heartbeats

    def _beat(self) -> None:
        """Once a second; the next one only after this one was answered, or not."""
        node, started, leader = self.node, self.world.clock.now, self.world.leader.name

        def answered(news: Any) -> None:
            if isinstance(news, Failure):
                if news.code == "FP-420":
                    self.world.net.call(node, self.world.leader.name, "join", None, lambda _: None)
            else:
                certified, signed = news
                if certified > len(node.disk.entries):
                    node.pull()
                elif signed > max(node.log.size, certified) or (node.log.tail and node.ahead_of != leader):
                    node.ask_ahead()
            self._after(max(0.05, BEAT_S - (self.world.clock.now - started)), self._beat)

        beat = (self.machine.state, len(node.disk.entries))
        self.world.net.call(node, leader, "beat", beat, answered, timeout_s=self.world.settings.beat_timeout_s)

    # ------------------------------------------------------------------ effects

    def _do(self, effect: MemberEffect) -> None:
        def broke(reason: str) -> None:
            self.tell(rounds.Broke(effect=effect, reason=reason))

        match effect:
            case Load():
                drops = self.node.log.drops
                self.node.ready(effect.state, lambda: self._holds(effect.round, effect.state, drops), broke)
            case Replay():
                updates = [receipt.update for receipt in effect.settled.receipts]
                self.node.fetch([*updates, effect.settled.state_in], lambda: self._apply(effect), broke)
            case ApplyCut():
                updates = [one.update for one in effect.counted]
                self.node.fetch([*updates, effect.open.state], lambda: self._apply_cut(effect), broke)
            case Train():
                self.node.ready(effect.open.state, lambda: self._train(effect), broke)
            case TrainAhead():
                basis = effect.basis
                self.node.fetch([basis.state, basis.update], lambda: self._train_ahead(effect), broke)
            case Finish():
                self.node.ready(effect.open.state, lambda: self._finish(effect, broke), broke)
            case ThrowAway():
                self.world.reports["thrown away"] += 1
            case Stop():
                self.node.worker.stop()
            case Deliver():
                self._deliver(self._sign(effect), broke, effect.trained.seconds)
            case Redeliver():
                promised = [receipt for receipt in self.node.disk.promises if receipt.round == effect.round]
                assert promised, "a redelivery without a promised receipt"
                self._deliver(promised[0], broke)

    def _holds(self, round_number: int, state: str, drops: int) -> None:
        """The worker holds a state, of the log as it was after so many tails had given way."""
        if drops == self.node.log.drops:
            self.world.holds(self.node, round_number, state)
        self.tell(rounds.Holds(round=round_number, state=state))

    def _apply(self, effect: Replay) -> None:
        settled, node, drops = effect.settled, self.node, self.node.log.drops

        def done(_: float) -> None:
            state = applied(settled.state_in, settled.receipts)
            if self.world.hit(self.world.settings.bit_flips):
                state = blob("flipped", state, size=STATE_BYTES)
            node.keep(state)
            self._holds(settled.round, state, drops)

        node.worker.do(Job(seconds=node.traits.apply_s, done=done))

    def _apply_cut(self, effect: ApplyCut) -> None:
        def done(_: float) -> None:
            state = applied(effect.open.state, effect.counted)
            self.node.keep(state)
            self.world.guesses.made(effect.open.round, state)
            self.tell(rounds.Holds(round=effect.open.round, state=state))

        self.node.worker.do(Job(seconds=self.node.traits.apply_s, done=done))

    def _train(self, effect: Train) -> None:
        assert self.machine.state == effect.open.state, "training from another state than the open round's"
        began = (effect.open.state, "")
        self._work_on(effect, lambda slots, took_s: self._trained(effect.open.round, slots, took_s, began))

    def _work_on(self, effect: Train | TrainAhead, then: Callable[[int, float], None]) -> None:
        """Use up a quota, or what of it the time budget and the leader leave; `then` is told the slots and seconds."""
        world, node, plan = self.world, self.node, self.world.plan
        if world.hit(world.settings.training_breaks):
            self._after(0.5, lambda: self.tell(rounds.Broke(effect=effect, reason="out of memory")))
            return
        wanted = effect.quota * node.traits.slot_s * world.rng.uniform(*world.settings.swing)
        given = min(wanted, max(plan.time_budget_s, wanted / effect.quota))

        def done(share: float) -> None:
            slots = min(effect.quota, max(1, int(effect.quota * given * share / wanted + 1e-9)))
            then(slots, given * share)

        node.worker.do(Job(seconds=given, done=done, training=True))

    def _trained(self, number: int, slots: int, took_s: float, began: tuple[str, str]) -> None:
        world, node = self.world, self.node
        update = blob(node.name, number, world.rng.random(), size=world.settings.update_bytes)
        node.disk.updates.add(update)
        world.beginnings.began[update] = began
        trained = rounds.Trained(
            round=number,
            update=update,
            tokens=slots * world.plan.tokens_per_slot,
            slots=slots,
            loss=2_000_000,
            steps=slots,
            leaves="ab" * 32,
            seconds=took_s,
        )
        if not world.hazard(node, "trained"):
            self.tell(trained)

    def _train_ahead(self, effect: TrainAhead) -> None:
        def then(slots: int, took_s: float) -> None:
            self._work = (effect.basis, slots, took_s)
            self.world.reports["trained ahead"] += 1
            if not self.world.hazard(self.node, "trained ahead"):
                self.tell(rounds.TrainedAhead(round=effect.basis.round, slots=slots))

        self._work_on(effect, then)

    def _finish(self, effect: Finish, broke: Callable[[str], None]) -> None:
        work, self._work = self._work, None
        assert work is not None, "nothing was trained ahead"
        basis, slots, took_s = work
        assert basis.round == effect.open.round, "trained ahead of another round"
        if self.world.hit(self.world.settings.training_breaks):
            broke("the worker that trained it is gone")
            return
        self.world.reports["finished"] += 1
        self._trained(basis.round, slots, took_s, (basis.state, basis.update))

    # ------------------------------------------------------------------ receipts

    def _sign(self, effect: Deliver) -> Receipt:
        trained, plan = effect.trained, self.world.plan
        seat = effect.open.seat(self.node.name)
        assert seat is not None, "a delivery without a seat"
        receipt = Receipt(
            network=plan.network,
            run=plan.run,
            round=trained.round,
            account=self.node.name,
            state_in=effect.open.state,
            update=trained.update,
            tokens=trained.tokens,
            slots=Slots(seat.start, trained.slots),
            loss=trained.loss,
            steps=trained.steps,
            leaves=trained.leaves,
            signature="00" * 64,
        )
        for known in self.node.disk.promises:
            again = Promise(known.round, known.state_in, *known.slots).fits(effect.open, self.node.name)
            assert not again or known == receipt, f"two different receipts signed for round {receipt.round}"
        earlier = [known for known in self.node.disk.promises if known.round < receipt.round]
        self.node.disk.promises = [*earlier, receipt][-1 - plan.max_uncertified :]
        return receipt

    def _deliver(self, receipt: Receipt, broke: Callable[[str], None], took_s: float = 0.0) -> None:
        if self.world.hazard(self.node, "promised"):
            return

        def answered(answer: Any) -> None:
            if isinstance(answer, Failure):
                if answer.code in {"FP-302", "FP-309", "FP-420"}:
                    broke(str(answer))
                    return
                honest = not self.node.traits.hostile
                assert not honest or answer.code in HONEST_REFUSALS, f"an honest receipt was refused: {answer}"
                self.tell(rounds.Answered(round=receipt.round, refusal=(answer.code, str(answer))))
            else:
                self.tell(rounds.Answered(round=receipt.round, refusal=None))

        if self.node.log.tail and self.node.ahead_of != self.world.leader.name:
            broke("what this leader has of the log is not here yet")
            return
        if self.node.traits.hostile:
            for lie in self.world.lies(receipt):
                self.world.net.call(self.node, self.world.leader.name, "receipt", lie, lambda _: None)
        self.world.net.call(self.node, self.world.leader.name, "receipt", (receipt, took_s), answered)

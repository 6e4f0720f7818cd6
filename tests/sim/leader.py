"""The leader role of a simulated node: carries out a LeaderMachine's effects as `peer.runs.leader` does.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.entries import Receipt
from peer.errors import RoundError
from peer.rounds import messages as rounds
from peer.rounds.lead import LeaderMachine
from peer.rounds.messages import ApplyRound, Check, Evaluate, LeaderEffect, Log, Report
from peer.rounds.tail import balance_after_tail, why_wait
from tests.sim.net import Failure
from tests.sim.worker import FakeWorker, Job, applied, held_out_loss

if TYPE_CHECKING:
    from tests.sim.node import Node

FETCH_S = 20.0
EVALUATE_S = 20.0


class SimLeader:
    """The daemon of the peer that writes the run's log."""

    def __init__(self, node: Node) -> None:
        """Have certified what was appended before a crash, then lead."""
        self.node = node
        self.world = node.world
        self.machine: LeaderMachine | None = None
        self.worker = FakeWorker(self.world.clock, node.traits.slot_s) if self.world.plan.overlap else node.worker
        """With overlap one of its own, as the member's trains while a round is settled."""
        self._joined: dict[str, None] = {}  # in order, so that a run follows from its seed
        self._tick_at = 0.0
        self.over = False
        """Another node leads."""
        self._held_back = self._certifying = False
        node.after(self.world.certify_s(), self._start)

    def _start(self) -> None:
        if self.over:
            return
        if self.world.outage:
            self.node.after(self.world.certify_s(), self._start)
            return
        self.node.certify(len(self.node.disk.appended))
        self.node.log.follow(())
        self.node.after(0.002, lambda: self.node.member.tell(rounds.LogGrew()))  # what another signed gave way
        plan, clock = self.world.plan, self.world.clock
        self.machine = LeaderMachine(plan=plan, log=self.node.log, balance=self.world.balance(), now=clock.now)
        if self.world.cancelled:
            self.tell(rounds.Cancel(reason="cancelled"))
        self._carry_out([])

    # ------------------------------------------------------------------ machine

    def tell(self, message: rounds.LeaderMessage) -> None:
        """Give the machine a message and start what it asks for."""
        if self.machine is None:
            raise Failure("FP-421", "the leader is still starting")
        if not self.over:
            self._carry_out(self.machine.receive(message, self.world.clock.now))

    def _carry_out(self, effects: list[LeaderEffect]) -> None:
        assert self.machine is not None
        for effect in effects:
            self.node.after(0.001, lambda effect=effect: self._do(effect))  # type: ignore[misc]
        deadline = self.machine.deadline
        if deadline is not None and deadline != self._tick_at:
            self._tick_at = deadline
            self.node.after(deadline - self.world.clock.now, lambda: self._tick(deadline))

    def _tick(self, planned: float) -> None:
        if planned == self._tick_at and self.machine is not None and not self.over:
            self._tick_at = 0.0
            self._carry_out(self.machine.tick(max(self.world.clock.now, planned)))

    # ------------------------------------------------------------------ members' calls

    def serve(self, caller: str, method: str, body: Any) -> Any:
        """Answer a member."""
        if method == "join":
            self._joined[caller] = None
            return None
        if caller not in self._joined:
            raise Failure("FP-420", "not joined")
        if method == "beat":
            self.tell(rounds.Beat(account=caller, state=body[0]))
            return len(self.node.disk.entries), self.node.log.size
        if method == "tail":
            return len(self.node.disk.entries), self.node.log.tail
        receipt, took_s = body if isinstance(body, tuple) else (body, 0.0)
        assert isinstance(receipt, Receipt)
        self._receipt(caller, receipt, took_s)
        return None

    def _receipt(self, caller: str, receipt: Receipt, took_s: float) -> None:
        if receipt.account != caller or receipt.signature != "00" * 64:
            raise Failure("FP-416", "not signed by its sender")
        before = self._shown()
        try:
            self.tell(rounds.Delivered(receipt=receipt, took_s=took_s))
        except RoundError as exc:
            changed = self._shown() != before
            raise (AssertionError(f"{exc} changed something") if changed else Failure(exc.code, exc.message)) from exc

    def _shown(self) -> tuple[object, ...]:
        machine = self.machine
        if machine is None:
            return ()
        return machine.phase, machine.delivered, machine.deadline, machine.log.size

    # ------------------------------------------------------------------ effects

    def _do(self, effect: LeaderEffect) -> None:
        if self.over:
            return
        match effect:
            case Check():
                self._check(effect.receipt)
            case ApplyRound():
                self._apply(effect)
            case Evaluate():
                self._evaluate(effect)
            case Log():
                self._log(effect)
            case Report():
                self.world.reports[effect.event] += 1

    def _evaluate(self, effect: Evaluate) -> None:
        number, account = effect.round, effect.account
        if account in ("", self.node.name):
            told = rounds.Evaluated(round=number, loss=held_out_loss(number))
            self.worker.do(Job(seconds=0.5, done=lambda _: self.tell(told)))
            return

        def answered(loss: Any) -> None:
            if isinstance(loss, Failure):
                self.tell(rounds.Unevaluated(round=number, account=account))
            else:
                self.tell(rounds.Evaluated(round=number, loss=loss, account=account))

        self.world.net.call(self.node, account, "evaluate", number, answered, timeout_s=EVALUATE_S)

    def _check(self, receipt: Receipt) -> None:
        def checked(refusal: tuple[str, str] | None) -> None:
            self.tell(rounds.Checked(account=receipt.account, update=receipt.update, refusal=refusal))

        def decode() -> None:
            unsound = self.world.nodes[receipt.account].traits.hostile and self.world.hit(0.5)
            self.node.after(0.05, lambda: checked(("FP-131", "not finite") if unsound else None))

        if not self.world.hazard(self.node, "checking"):
            self.node.fetch([receipt.update], decode, lambda reason: checked(("FP-417", reason)))

    def _apply(self, effect: ApplyRound) -> None:
        open_round = self.node.log.open
        assert open_round is not None, "applying while no round is open"
        state, node = open_round.state, self.node
        if self.world.settings.tells_cuts and not self.world.plan.overlap:
            self._send("cut", self.world.guesses.told(effect))

        def done(_: float) -> None:
            after = applied(state, effect.receipts)
            shared = self.worker is node.worker
            (node.keep if shared else node.store)(after)
            if self.over:
                return
            if self.world.hazard(node, "applied"):
                return
            if shared:
                node.member.tell(rounds.Holds(round=effect.round, state=after))
            self.tell(rounds.Applied(round=effect.round, state=after))

        def apply() -> None:
            self.worker.do(Job(seconds=node.traits.apply_s, done=done))

        def again(_: str) -> None:
            node.after(1.0, lambda: self._apply(effect))

        self.worker.stop()
        node.fetch([state, *(receipt.update for receipt in effect.receipts)], apply, again)

    def _log(self, effect: Log) -> None:
        node = self.node
        node.disk.appended += effect.entries
        self._held_back = True
        if self.world.hazard(node, "appended"):
            return
        self._go_ahead()
        self._certify()

    def _go_ahead(self) -> None:
        """Have members go by what is signed, as far as the run allows."""
        node, signed = self.node, tuple(self.node.disk.appended)
        if not self._held_back:
            return
        if why_wait(self.world.plan, signed):
            self.world.reports["held back"] += 1
            return
        self._held_back = False
        node.log.follow(signed)
        node.ahead_of = node.name
        node.after(0.002, lambda: node.member.tell(rounds.LogGrew()))
        if signed:
            self._send("ahead", (len(node.disk.entries), signed))
        node.after(0.005, lambda: self.tell(rounds.Logged(balance=self._balance())))

    def _certify(self) -> None:
        """Have certified what is signed by now, whenever that is possible."""
        node, count = self.node, len(self.node.disk.appended)
        if self._certifying or not count:
            return
        self._certifying = True

        def certified() -> None:
            if self.over:
                return
            if self.world.outage:
                node.after(self.world.certify_s(), certified)
                return
            self._certifying = False
            since = len(node.disk.entries)
            node.certify(count)
            if self.world.hazard(node, "certified"):
                return
            self._push(since)
            self._go_ahead()
            self._certify()

        node.after(self.world.certify_s(), certified)

    def _balance(self) -> int:
        """What the run can spend after what members go by; the world will compare."""
        balance = balance_after_tail(self.world.plan, self.node.log, self.world.balance())
        self.world.told_balances[self.node.log.size] = balance
        return balance

    def _push(self, since: int) -> None:
        """Tell the members at once; whoever misses it asks after its next heartbeat."""
        self._send("news", (since, tuple(self.node.disk.entries[since:])))

    def _send(self, method: str, body: Any) -> None:
        for account in self._joined:
            if account != self.node.name:
                self.world.net.call(self.node, account, method, body, _ignore)


def _ignore(_: Any) -> None:
    pass

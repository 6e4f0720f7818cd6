"""A simulated peer: what is on its disk, what is lost when it is killed, and the roles that run on it.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ledger.entries import Entry, Receipt
from peer.rounds import messages as rounds
from peer.rounds.log import RunLog
from peer.rounds.tail import why_wait
from tests.sim.leader import SimLeader
from tests.sim.member import SimMember
from tests.sim.net import Failure
from tests.sim.worker import KEEP_STATES, FakeWorker, Job, held_out_loss

if TYPE_CHECKING:
    from tests.sim.world import World


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a volunteer's machine is like."""

    slot_s: float
    """Seconds to train one slot."""
    apply_s: float
    load_s: float
    transfer_s: float
    hostile: bool
    """Sends lies beside its receipts, and updates that do not decode."""


@dataclass(kw_only=True)
class Disk:
    """What survives a kill."""

    entries: list[Entry] = field(default_factory=list)
    """The certified log."""
    appended: list[Entry] = field(default_factory=list)
    """Leader only: beyond it, signed and not yet certified."""
    states: list[str] = field(default_factory=list)
    updates: set[str] = field(default_factory=set)
    promises: list[Receipt] = field(default_factory=list)


class Node:
    """One process life of a peer: a new one is made at every start, on the old disk."""

    def __init__(self, world: World, name: str, traits: Traits, disk: Disk) -> None:
        self.world = world
        self.name = name
        self.traits = traits
        self.disk = disk
        self.alive = True
        self.log = RunLog()
        self.log.extend(disk.entries)
        self.state = ""
        """The state that the worker holds."""
        self.worker = FakeWorker(world.clock, traits.slot_s)
        self._pulling = False
        self.ahead_of = ""
        """The leader whose tail the log has."""
        self.leader: SimLeader | None = None
        self.member = SimMember(self)
        if name == world.leader_name:
            self.leader = SimLeader(self)

    def lead(self, truth: Sequence[Entry]) -> None:
        """Take over the run where its certified log ends."""
        self._learn(0, truth)
        self.leader = SimLeader(self)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Carry out `action` later, if this life lasts so long."""

        def act() -> None:
            if self.alive:
                action()

        self.world.clock.at(self.world.clock.now + seconds, act)

    def die(self) -> None:
        """kill -9."""
        self.alive = self.worker.alive = False
        if self.leader is not None:
            self.leader.worker.alive = False

    # ------------------------------------------------------------------ network

    def serve(self, caller: str, method: str, body: Any) -> Any:
        """Answer a call."""
        if method == "news":
            self._learn(*body)
            return None
        if method == "ahead":
            start, signed = body
            self.follow(start, signed, caller)
            return None
        if method == "cut":
            if caller == self.world.leader.name:
                self.member.tell(body)
            return None
        if method == "evaluate":
            return self._evaluate(body)
        if self.leader is None:
            raise Failure("FP-309", "not the leader")
        if method == "entries":
            return tuple(self.disk.entries[body:])
        return self.leader.serve(caller, method, body)

    def _evaluate(self, round_number: int) -> int:
        """The held-out loss of the state after a round; a liar's would end the run, or is out of this world."""
        if self.traits.hostile:
            return self.world.rng.choice([1, 10**15])
        held = self.member.machine.held
        if held is None or held[0] > round_number:
            raise Failure("FP-426", "does not hold that state")
        return held_out_loss(round_number)

    # ------------------------------------------------------------------ the log

    def _learn(self, start: int, entries: Sequence[Entry]) -> None:
        """Take up certified entries, if they join what is here."""
        here = len(self.disk.entries)
        if self.leader is None and start <= here < start + len(entries):
            self.disk.entries += entries[here - start :]
            self._refresh()

    def _refresh(self) -> None:
        self.log.extend(self.disk.entries[self.log.certified :])
        self.after(0.002, lambda: self.member.tell(rounds.LogGrew()))

    def pull(self) -> None:
        """Ask the leader for the entries that are missing here."""
        if self._pulling:
            return
        self._pulling = True
        start = len(self.disk.entries)

        def answered(entries: Any) -> None:
            self._pulling = False
            if not isinstance(entries, Failure):
                self._learn(start, entries)

        self.world.net.call(self, self.world.leader_name, "entries", start, answered)

    def ask_ahead(self) -> None:
        """Ask the leader for what it signed and nobody certified."""
        leader = self.world.leader.name

        def answered(ahead: Any) -> None:
            if not isinstance(ahead, Failure):
                start, signed = ahead
                self.follow(start, signed, leader)

        self.world.net.call(self, leader, "tail", None, answered)

    def follow(self, start: int, signed: Sequence[Entry], leader: str) -> None:
        """Go on with what this leader signed from `start` on, unless it is not the leader any more, or that is old."""
        here = len(self.disk.entries)
        if start > here:
            self.pull()
            return
        known, tail = list(signed[: here - start]), tuple(signed[here - start :])
        if leader == self.world.leader.name and known == self.disk.entries[start:][: len(signed)]:
            assert not why_wait(self.world.plan, tail), "members are to go further than the run allows"
            if leader != self.ahead_of or self.log.tail[: len(tail)] != tail:
                self.log.follow(tail)
                self.ahead_of = leader
                self.after(0.002, lambda: self.member.tell(rounds.LogGrew()))

    def certify(self, count: int) -> None:
        """Leader only: the witnesses have cosigned so many of the entries that it signed."""
        new, self.disk.appended = self.disk.appended[:count], self.disk.appended[count:]
        if new:
            self.world.certified(len(self.disk.entries), new)
            self.disk.entries += new
            self._refresh()

    # ------------------------------------------------------------------ blobs

    def has(self, blob: str) -> bool:
        """Whether the blob is on disk."""
        return blob in self.disk.updates or blob in self.disk.states

    def keep(self, state: str) -> None:
        """The worker computed this state and wrote it to disk."""
        self.state = state
        self.store(state)

    def store(self, state: str) -> None:
        """A state is on disk; the newest few are kept."""
        states = [known for known in self.disk.states if known != state]
        self.disk.states = [*states, state][-KEEP_STATES - self.world.plan.max_uncertified :]

    def fetch(self, blobs: Sequence[str], then: Callable[[], None], broke: Callable[[str], None]) -> None:
        """Have these blobs on disk, from any node that has them."""
        missing = [blob for blob in blobs if not self.has(blob)]
        if not missing:
            then()
            return
        blob = missing[0]

        def arrived() -> None:
            if not self.world.provided(self, blob):
                broke(f"{blob[:8]} went away")
            elif blob.endswith(f"-{self.world.settings.update_bytes}"):
                self.disk.updates.add(blob)
                self.fetch(blobs, then, broke)
            else:
                self.store(blob)
                self.fetch(blobs, then, broke)

        if self.world.provided(self, blob):
            self.after(self.traits.transfer_s, arrived)
        else:
            self.after(0.5, lambda: broke(f"nobody has {blob[:8]}"))

    def ready(self, state: str, then: Callable[[], None], broke: Callable[[str], None]) -> None:
        """Have the worker hold this state."""
        if self.state == state:
            then()
            return

        def loaded(_: float) -> None:
            self.state = state
            then()

        def load() -> None:
            self.state = ""
            self.worker.do(Job(seconds=self.traits.load_s, done=loaded))

        self.fetch([state], load, broke)

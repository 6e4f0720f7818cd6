"""The demo's story of one run: it starts short of one peer, that peer joins, another is killed and comes back, it ends.

IO: follows events over the gateways, starts and kills the demo's daemons.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from peer.cli.client import run_path
from peer.cli.screen import Screen
from peer.cli.view import Event, Row, row_of
from peer.demo.peers import DemoFailed, DemoPeer
from peer.errors import ForgeError

SILENCE_S = 90.0
"""No event for so long means that the run is stuck."""
TICK_S = 0.2
JOIN_AFTER_ROUND = 2
KILL_AFTER_ROUNDS = 2
"""Rounds that the newcomer has trained in before another member is killed."""
THREADS = 1
"""CPU threads of each daemon's training, so that three of them fit on two cores."""
MID_ROUND = 0.4
"""Where in a round the member is killed, as a part of its usual length."""


@dataclass(kw_only=True)
class Story:
    """What has happened so far, and what is to be made to happen."""

    run: str
    """The run's id."""
    peers: list[DemoPeer]
    """The last one joins late, the second one is killed."""
    network_file: Path
    """What the newcomer is given, besides an address."""
    screen: Screen
    """Where it is shown."""
    names: dict[str, str]
    """What to call accounts; the newcomer's is added when it is known."""
    rows: list[Row] = field(default_factory=list)
    """The settled rounds."""
    rosters: dict[int, set[str]] = field(default_factory=dict)
    """Accounts by the round that was opened with them."""
    settled_by: dict[int, set[str]] = field(default_factory=dict)
    """Accounts by the round in which their receipts were settled."""
    open_round: int = 0
    """The newest round that was opened."""
    started_round: int = 0
    """The round in which the newcomer's daemon was started."""
    joined_round: int = 0
    """The newcomer's first round."""
    killed_round: int = 0
    """The round in which the victim was killed."""
    restarted: bool = False
    """Whether the victim's daemon was started again."""
    back_round: int = 0
    """The victim's first round after that."""
    orphans: list[int] = field(default_factory=list)
    """What the killed daemon left running."""
    told: set[int] = field(default_factory=set)
    """Peers whose catching up was told."""
    reason: str = ""
    """Why the run closed."""

    @property
    def newcomer(self) -> DemoPeer:
        """The peer that joins from nothing."""
        return self.peers[-1]

    @property
    def victim(self) -> DemoPeer:
        """The peer that is killed."""
        return self.peers[1]

    def tell(self) -> None:
        """Runs the story to the close of the run.

        Raises:
            DemoFailed: a daemon ended that should live, or the run is stuck.
        """
        last = time.monotonic()
        for event in follow(self.peers[0], self.run):
            now = time.monotonic()
            for peer in self.peers:
                if peer.process is not None and not (peer is self.victim and self.killed_round and not self.restarted):
                    peer.must_run()
            if event is None:
                if now - last > SILENCE_S:
                    log = self.peers[0].log
                    raise DemoFailed(f"run {self.run[:12]}: nothing happened for {SILENCE_S:.0f} s", f"see {log}")
            else:
                last = now
                self.see(event)
                self.screen.show(event)
            self.act()
            if self.reason:
                return

    def see(self, event: Event) -> None:
        """Takes in one event of the leader's journal."""
        match event["event"]:
            case "opened":
                self.open_round = event["round"]
                self.rosters[self.open_round] = set(event["members"])
                self._see_roster(self.open_round, self.rosters[self.open_round])
            case "settled":
                self.rows.append(row_of(event))
                self.settled_by[event["round"]] = set(event.get("accounts", ()))
            case "closed":
                self.reason = event.get("reason") or "closed"

    def _see_roster(self, number: int, members: set[str]) -> None:
        if self.newcomer.account in members and not self.joined_round:
            self.joined_round = number
        missing = any(self.victim.account not in self.rosters[n] for n in self.rosters if n > self.killed_round)
        if self.restarted and missing and self.victim.account in members and not self.back_round:
            self.back_round = number

    def act(self) -> None:
        """Makes happen what is due."""
        settled = self.rows[-1].round if self.rows else 0
        for peer, number in ((self.newcomer, self.joined_round), (self.victim, self.back_round)):
            if number and peer.number not in self.told:
                self.told.add(peer.number)
                self._tell_how_it_caught_up(peer)
        if not self.started_round and settled >= JOIN_AFTER_ROUND:
            self.started_round = settled + 1
            self.screen.say(f"▸ {self.newcomer.label} starts from nothing and joins the run")
            self.newcomer.start("--network", self.network_file, *self._options(self.newcomer))
        elif self.started_round and not self.newcomer.account and self.newcomer.is_ready():
            self.names[self.newcomer.account] = self.newcomer.label
        elif self.joined_round and not self.killed_round and settled >= self.joined_round + KILL_AFTER_ROUNDS - 1:
            self._kill_in_mid_round()
        elif self.killed_round and not self.restarted and settled >= self.killed_round:
            self.restarted = True
            self.screen.say(f"▸ {self.victim.label} is started again on its home folder")
            self.victim.start(*self._options(self.victim))

    def _options(self, peer: DemoPeer) -> tuple[object, ...]:
        """How a daemon of the demo is started."""
        through = ("--bootstrap", self.peers[0].address)
        return (*through, "--threads", THREADS, "--device", "cpu", "--name", peer.label)

    def _tell_how_it_caught_up(self, peer: DemoPeer) -> None:
        """What the peer's own journal says of its way to the present."""
        for event in [event for event in journal(peer, self.run) if event["event"] == "caught_up"][-1:]:
            self.screen.say(f"▸ {peer.label} caught up by {event['by']} in {event['seconds']:.1f} s")

    def _kill_in_mid_round(self) -> None:
        """Kills the victim while it trains in the open round."""
        number = self.open_round
        if self.victim.account not in self.rosters.get(number, set()) or self.rows[-1].round >= number:
            return
        usual = statistics.median(row.seconds for row in self.rows[-3:])
        if not wait_until(lambda: _trains(self.victim, self.run, number), usual):
            return
        time.sleep(MID_ROUND * usual)
        self.victim.kill()
        self.killed_round = number
        self.screen.say(f"▸ {self.victim.label} is killed (SIGKILL) in the middle of round {number}")
        self.orphans = self.victim.orphans()

    def killed_in_mid_round(self) -> bool:
        """Whether the victim had not delivered in the round in which it was killed."""
        return bool(self.killed_round) and self.victim.account not in self.settled_by.get(self.killed_round, set())

    def others_went_on(self) -> bool:
        """Whether the round of the kill and the next were settled without the victim."""
        settled = {row.round for row in self.rows}
        return bool(self.killed_round) and {self.killed_round, self.killed_round + 1} <= settled

    def stall(self) -> float:
        """The longest round while the newcomer joined, over the usual round before."""
        before = [row.seconds for row in self.rows if row.round < self.started_round]
        during = [row.seconds for row in self.rows if self.started_round <= row.round <= self.joined_round]
        return max(during, default=0.0) / max(statistics.median(before), 1e-9) if before else 0.0


def follow(peer: DemoPeer, run: str) -> Iterator[Event | None]:
    """The events of a run as one daemon tells them, and None whenever there was none for a short while.

    Raises:
        ForgeError: the stream ended early.
    """
    events: queue.Queue[Event | ForgeError | None] = queue.Queue()

    def read() -> None:
        try:
            for event in peer.client.stream("GET", run_path(run, "events"), follow=1):
                events.put(event)
            events.put(None)
        except ForgeError as exc:
            events.put(exc)

    threading.Thread(target=read, name="demo-events", daemon=True).start()
    while True:
        try:
            event = events.get(timeout=TICK_S)
        except queue.Empty:
            yield None
            continue
        if event is None:
            return
        if isinstance(event, ForgeError):
            raise event
        yield event


def _trains(peer: DemoPeer, run: str, number: int) -> bool:
    """Whether a peer's own journal says that it trains in a round and has not delivered yet."""
    said = {event["event"] for event in journal(peer, run) if event.get("round") == number}
    return "training" in said and "delivered" not in said


def journal(peer: DemoPeer, run: str) -> list[Event]:
    """What a peer has noted of a run so far."""
    return list(peer.client.stream("GET", run_path(run, "events")))


def wait_until(holds: Callable[[], bool], patience_s: float) -> bool:
    """Looks again and again until it holds, or patience ends."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True

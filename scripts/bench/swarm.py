"""Peers that train one model in stages, who of them was killed, and who is back.

IO: daemons, signals to them, their journals.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import churn
from churn import Kill, Waits
from cluster import Journal, Peer, wait_for

PATIENCE_S = 240.0
LOOK_S = 0.05


@dataclass(kw_only=True)
class Away:
    """A victim that was started again and does not answer yet."""

    peer: Peer
    round: int
    began_at: float
    """When it had begun its work of the round."""
    at: float
    """When it was killed."""


@dataclass(kw_only=True)
class Swarm:
    """The run, who serves it, and who was killed."""

    first: Peer
    """Leads; is never killed."""
    peers: Sequence[Peer]
    run: str
    budget_s: float
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    away: list[Away] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    """Of victims that answer again."""

    def __post_init__(self) -> None:
        """Journals are read as they grow, through all lives of a daemon."""
        self.leader: Journal = self.first.journal(self.run)
        self.journals: dict[str, Journal] = {peer.account: peer.journal(self.run) for peer in self.peers}

    def look(self) -> None:
        """Read what is new, and see who answers again."""
        for journal in (self.leader, *self.journals.values()):
            journal.poll()
        for away in list(self.away):
            if away.peer.is_ready():
                self.away.remove(away)
                self.kills.append(Kill(
                    account=away.peer.account, round=away.round, began_at=away.began_at, at=away.at,
                    back_at=time.time(),
                ))  # fmt: skip

    def newest(self, name: str) -> int:
        """The last round of which the leader told this; 0: of none."""
        self.look()
        return max(self.leader.times(name), default=0)

    def wait(self, name: str, above: int) -> Mapping[str, Any]:
        """The leader's newest event of that name, once it is of a round above this one."""
        wait_for(lambda: self.newest(name) > above, PATIENCE_S, f"{name} of a round above {above}")
        return next(event for event in reversed(self.leader.events) if event["event"] == name)

    def wait_all(self) -> int:
        """Wait until a round is open in which every peer works; its number."""

        def all_work() -> bool:
            number = self.newest("opened")
            return not self.away and all(self.began(peer, number) for peer in self.peers)

        wait_for(all_work, PATIENCE_S, "all peers to work in one round")
        return max(self.leader.times("opened"))

    def began(self, peer: Peer, number: int) -> float | None:
        """When it began its work of this round, in its newest life."""
        return self.journals[peer.account].times("training").get(number)

    def stage_of(self, peer: Peer) -> int:
        """The one that it served last."""
        events = [event for event in self.journals[peer.account].events if event["event"] == "training"]
        return int(events[-1]["stage"])

    def pass_time(self, until: float) -> None:
        """Go on looking until then."""
        while time.time() < until:
            self.look()
            time.sleep(LOOK_S)

    def kill(self, peer: Peer, number: int) -> None:
        """SIGKILL to a peer at work on this round; it is started again at once."""
        assert peer.process is not None
        began_at = self.began(peer, number)
        peer.see_family()
        at = time.time()
        peer.process.kill()
        peer.process.wait()
        peer.begin(self.first)
        self.away.append(Away(peer=peer, round=number, began_at=at if began_at is None else began_at, at=at))

    def settled_at(self, number: int) -> float:
        """When the round was settled, once it is."""
        self.wait("settled", number - 1)
        return self.leader.times("settled")[number]

    def waits(self, kill: Kill) -> Waits:
        """What the requests in flight to this victim waited for."""
        return churn.waits([journal.events for journal in self.journals.values()], kill, self.settled_at(kill.round))

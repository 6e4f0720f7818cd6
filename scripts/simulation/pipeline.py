"""Simulates runs with stages on volunteers who come and go: how much of what the stages could do counts.

The machines are the daemon's own (`peer.stages`). At every moment the stage with the least summed speed of living
replicas on the roster bounds the run. While a round is driven, from a minute after its opening (the pipeline is filled
then) until its time budget is over, what goes through all stages is compared with that bound, lowered by what died
with a replica and was done again in that minute: it tells routing. All the time, what counts at last is compared with
what the replicas that lived until their round was settled could have done without a pause: it tells also what is lost
by filling and draining the pipeline, by drivers that died, by undoing, reconciling, exchanging updates and certifying,
which longer rounds or sessions lessen.

IO: standard output.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from hashlib import sha256

from ledger.entries import Begin, Entry
from ledger.stages import run_state
from peer.rounds.log import OpenRound, RunLog
from peer.rounds.messages import Checked, Left, Log, Logged, Report
from peer.rounds.plan import Plan
from peer.stages.lead import StageLeader
from peer.stages.messages import CheckUpdate, StageLeaderEffect, StageLeaderMessage, Status, Tag, Tell
from peer.stages.plan import StagePlan
from scripts.simulation.clock import Clock
from scripts.simulation.people import HOUR_S, account, draw, population, sessions
from scripts.simulation.pipeline_figures import Figures, part, told
from scripts.simulation.pipeline_peer import PipelinePeer
from scripts.simulation.pipeline_settings import PipelineSettings

NETWORK, RUN = "9e" * 32, "7a" * 32
SLOTS = 4
LOOK_S = 1.0
"""What could be done is summed up in steps of this."""
BOUND_S = 60.0
"""Which stage bounds the run is looked at once in so long: deaths may make it another."""
FILLED_S = 60.0


class World:
    """Everybody, and the run's log."""

    def __init__(self, settings: PipelineSettings) -> None:
        self.settings = settings
        self.rng = random.Random(f"pipeline/{settings.seed}")
        self.clock = Clock()
        stages, each = settings.stages, 10**6 // settings.stages
        shares = (10**6 - each * (stages - 1), *[each] * (stages - 1))
        plan = Plan(
            network=NETWORK, run=RUN, rounds=10**6, quota=1000 * SLOTS, batch_size=SLOTS, tokens_per_slot=1024, price=0,
            min_members=1, max_members=1000, evaluate_every=0, time_budget_s=settings.round_s, lost_after_s=6.0,
        )  # fmt: skip
        self.plan = StagePlan(
            plan=plan, replicas=settings.replicas, microbatch=SLOTS, in_flight=settings.in_flight, shares=shares,
            needs_bytes=(4 * 10**9,) * stages,
        )  # fmt: skip
        self.log = RunLog()
        self.view = RunLog()
        """What members know of it."""
        self._append([self._begin(shares)])
        self.undone = self.replays = self.calls = 0
        self.reports: Counter[str] = Counter()
        self.ends = 0
        self.parts: Counter[str] = Counter()
        """How often we looked while a round was in each of its steps."""
        self._could = self._did = self._whole = 0.0
        """Microbatches: that could have gone through while driving, that did, and that could have counted."""
        self._capacity = [0.0] * settings.stages
        """By stage: what its living replicas could do in this minute of driving, without what had to be redone."""
        self._served: dict[tuple[int, int], tuple[PipelinePeer, int]] = {}
        """By stage and microbatch: who holds its gradient, in which session."""
        self._through: dict[str, int] = {}
        """By driver: microbatches that were through when we looked last."""
        self._opened_at = 0.0
        self._lives: dict[str, int] = {}
        """Who was on the open round's roster, in which session."""
        self._balances: list[float] = []
        self.moved: list[tuple[float, str]] = []
        self.named: dict[str, float] = {}
        """By update: when the leader heard of it, and told those who will sum it, so that they fetch it ahead."""
        self.leader = StageLeader(name="leader/1", plan=self.plan, log=self.log, balance=0, now=0.0)
        self._tick_at = 0.0
        self.peers: dict[str, PipelinePeer] = {}
        self._people()
        self._look()

    def _begin(self, shares: Sequence[int]) -> Begin:
        states, file = [self.state(stage, 0) for stage in range(len(shares))], self.blob("file")
        leader = account(self.settings.seed, 0)
        return Begin(spec={
            "version": 1, "name": "simulated", "submitter": leader, "leaders": [leader], "price": 0,
            "tokens_per_slot": 1024, "slots_per_epoch": 1_000_000, "rounds": 10**6, "nonce": "ab" * 16, "config": {},
            "blobs": {"model": file, "tokenizer": file, "manifest": file, "state": run_state(states)},
            "stages": {"shares": list(shares), "states": list(states), "microbatch": SLOTS},
        })  # fmt: skip

    def _people(self) -> None:
        """Who is online when; whoever is at the start holds a stage, where the placement would have put it."""
        people, online = self.settings.people, 0
        for place in range(1, population(people) + 1):
            person = draw(self.rng, people, place)
            peer = self.peers[person.name] = PipelinePeer(self, person, self.settings.draw(self.rng))
            for start, end in sessions(self.rng, people):
                crash = self.rng.random() < self.settings.crash_share
                if start == 0.0:
                    stage, online = online % self.settings.stages, online + 1
                    held = 0, stage, self.state(stage, 0)
                    self.clock.at(0.0, lambda peer=peer, held=held: peer.start(held))  # type: ignore[misc]
                else:
                    self.clock.at(start, peer.start)
                if end < self.settings.hours * HOUR_S:
                    self.clock.at(end, lambda peer=peer, crash=crash: self._end(peer, crash=crash))  # type: ignore[misc]

    def _end(self, peer: PipelinePeer, *, crash: bool) -> None:
        self.ends += 1
        peer.end(crash=crash)

    # ------------------------------------------------------------------ what the others ask

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Later."""
        self.clock.at(self.clock.now + seconds, action)

    def blob(self, what: str) -> str:
        """An id that stands for a blob."""
        return f"{sha256(what.encode()).hexdigest()}-1000"

    def state(self, stage: int, round_number: int) -> str:
        """Id of a stage's state after a round."""
        return self.blob(f"state {stage} {round_number}")

    # ------------------------------------------------------------------ the leader

    def heard(self, status: Status) -> None:
        """A status arrives."""
        self._tell(status)

    def left(self, name: str) -> None:
        """A member says goodbye."""
        self._tell(Left(account=name, reason="left"))

    def _tell(self, message: StageLeaderMessage) -> None:
        self._carry_out(self.leader.receive(message, self.clock.now))

    def _carry_out(self, effects: Sequence[StageLeaderEffect]) -> None:
        for effect in effects:
            self._do(effect)
        deadline = self.leader.deadline
        if deadline is not None and (deadline < self._tick_at or self._tick_at <= self.clock.now):
            self._tick_at = deadline
            self.after(max(0.0, deadline - self.clock.now), lambda: self._tick(deadline))

    def _tick(self, planned: float) -> None:
        if planned == self._tick_at:
            self._tick_at = 0.0
            self._carry_out(self.leader.tick(self.clock.now))

    def _do(self, effect: StageLeaderEffect) -> None:
        match effect:
            case Tell():
                peer = self.peers[effect.account]
                self.after(peer.latency_s, lambda: peer.ordered(effect.order))
            case CheckUpdate():
                self.named[effect.receipt.update] = self.clock.now
                told = Checked(account=effect.receipt.account, update=effect.receipt.update, refusal=None)
                self.after(self.settings.fetch_s, lambda: self._tell(told))
            case Log():
                self.after(self.settings.certify_s, lambda: self._logged(effect.entries))
            case Report():
                self.reports[effect.event] += 1
                if effect.event == "moved":
                    self.moved.append((self.clock.now, str(effect.fields["account"])))

    def _logged(self, entries: Sequence[Entry]) -> None:
        if self.log.open is not None:  # what the survivors of the round could have done
            self._whole += min(self._speeds(self.log.open)) * (self.clock.now - self._opened_at)
            self._take_bound()
        self._served.clear()
        self._append(entries)
        self._opened_at = self.clock.now
        roster = self.log.open.roster if self.log.open is not None else ()
        self._through = {seat.account: 0 for seat in roster if seat.stage == 0}
        self._lives = {seat.account: self.peers[seat.account].life for seat in roster}
        self._tell(Logged(balance=0))
        for peer in self.peers.values():
            if peer.alive:
                peer.after(peer.latency_s, lambda peer=peer: peer.learn(self.view))  # type: ignore[misc]

    def _append(self, entries: Sequence[Entry]) -> None:
        self.log.extend(list(entries))
        self.view = copy.copy(self.log)
        for name, value in vars(self.log).items():
            if isinstance(value, list | dict | set):
                setattr(self.view, name, value.copy())

    # ------------------------------------------------------------------ figures

    def _look(self) -> None:
        """Sum up what could be done just now."""
        opened = self.log.open
        if opened is not None:
            self.parts[part(self.leader, late=self.clock.now - self._opened_at > self.settings.round_s)] += 1
            speeds, through = self._speeds(opened), self._through
            self._balances += [min(speeds) * len(speeds) / sum(speeds)] if sum(speeds) else []
            self._through = {
                name: len(one.driver.table) for name in through if (one := self.peers[name].machine).driver
            }
            if FILLED_S <= self.clock.now - self._opened_at <= self.settings.round_s:
                self._capacity = [sum(pair) for pair in zip(self._capacity, speeds, strict=True)]
                if (self.clock.now - self._opened_at) % BOUND_S < LOOK_S:
                    self._take_bound()
                self._did += sum(max(0, count - through[name]) for name, count in self._through.items())
        self.after(LOOK_S, self._look)

    def _take_bound(self) -> None:
        """Another minute's least stage."""
        self._could += max(0.0, min(self._capacity))
        self._capacity = [0.0] * self.settings.stages

    def served(self, peer: PipelinePeer, tag: Tag, part: float) -> None:
        """A replica did a backward; what died with another one had to be redone, what is done twice had not."""
        place, within = (tag.stage, tag.microbatch), self.clock.now - self._opened_at <= self.settings.round_s
        before, life = self._served.get(place, (peer, peer.life))
        if within and not (before.alive and before.life == life):
            self._capacity[tag.stage] -= part
        self._served[place] = peer, peer.life

    def _speeds(self, opened: OpenRound) -> list[float]:
        """Microbatches a second by stage, of those on the roster who are still in the same session."""
        speeds = [0.0] * self.settings.stages
        for seat in opened.roster:
            peer = self.peers[seat.account]
            speeds[seat.stage] += peer.speed if peer.alive and peer.life == self._lives.get(seat.account) else 0.0
        return speeds

    def figures(self) -> Figures:
        """Once it is over."""
        done = self.log.settled
        counted = sum(receipt.bits.bit_count() for one in done for receipt in one.staged if receipt.stage == 0)
        return Figures(
            seed=self.settings.seed, rounds=len(done), microbatches=counted, share=self._did / self._could,
            whole_share=counted / self._whole, balance=sum(self._balances) / len(self._balances),
            moves=len(self.moved), most_moves=self._most_moves(), ends=self.ends, undone=self.undone,
            replays=self.replays, reports=self.reports, events=self.clock.events, parts=self.parts,
        )  # fmt: skip

    def _most_moves(self) -> int:
        """Of one peer within five minutes."""
        within = [
            sum(name == other and 0 <= later - at < 300 for later, other in self.moved) for at, name in self.moved
        ]
        return max(within, default=0)


def run(settings: PipelineSettings) -> Figures:
    """Play one run, until the first round that ends after its hours."""
    world = World(settings)
    end = settings.hours * HOUR_S
    due: list[int] = []
    """Rounds that are to be settled, once the hours are over."""

    def over() -> bool:
        if not due and world.clock.now >= end:
            due.append(world.log.round + 1)
        return bool(due) and world.log.round >= due[0]

    world.clock.run(end + 10 * settings.round_s, over)
    return world.figures()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(prog="pipeline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    for field in fields(PipelineSettings):
        if field.name != "seed":
            made = f"--{field.name.replace('_', '-')}"
            parser.add_argument(made, type=type(field.default), default=field.default, help="(default: %(default)s)")
    given = vars(parser.parse_args(arguments))
    for seed in given.pop("seeds"):
        found = run(PipelineSettings(**given, seed=seed))
        print(told(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A replica's part in one round: which requests it takes, what its accumulator holds, and what it shall hold.

Every microbatch is in the accumulator once or not at all; what was done once is not done again (the worker keeps its
reply). From an attempt of the leader on, only requests of later attempts are taken, so that nothing that is late or
repeated changes what was agreed.

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from ledger.entries import StageReceipt
from peer.rounds.log import OpenRound, Seat
from peer.stages.manifest import Manifest
from peer.stages.messages import NO_ATTEMPT, Attempt, Cut, Freeze, Kind, Losses, Refusal, Status, Tag
from peer.stages.plan import StagePlan
from peer.stages.slots import numbers, size_of

NOT_OURS = "FP-452"
FLOOD = 2
"""A driver may have so many times more requests here than an honest one has microbatches under way."""

LATE = 0.25
"""In this last part of the time budget what is to be undone takes its turn."""


class Work:
    """One accumulator in one round. Written only by the replica's machine."""

    def __init__(
        self, *, open_round: OpenRound, seat: Seat, plan: StagePlan, room: int, now: float = 0.0,
        receipt: StageReceipt | None = None,
    ) -> None:  # fmt: skip
        """An empty accumulator.

        Args:
            open_round: the round.
            seat: ours in it.
            plan: the run's figures.
            room: requests that wait or are served at a time, at most.
            now: the round's time budget begins.
            receipt: one that we signed for this round before a restart, and whose update we have.
        """
        self.open = open_round
        self.seat = seat
        self.size = size_of(open_round, plan.microbatch)
        """The round's microbatches."""
        self.held = Manifest(bits=0, size=self.size)
        self.floor: Attempt = NO_ATTEMPT
        """The newest order taken: requests of this attempt and before are over."""
        self.wanted: Manifest | None = None
        """What we shall hold."""
        self.until = now + plan.plan.time_budget_s
        """The time budget is over then."""
        self.begun = False
        """Whether the worker was told to begin with an empty accumulator."""
        self.undoing = False
        self.losses: Attempt = NO_ATTEMPT
        """How many losses we were told of, and by whom."""
        self.receipt = receipt
        """For the update written last."""
        self.cut: Cut | None = None
        self.norm = ""
        self.applied = ""
        """Id of the stage's state that came of the cut."""
        self._plan = plan
        self._room = room
        self._pending: set[Tag] = set()
        self._later = Manifest(bits=0, size=self.size)
        """What was done for a later attempt than that of `wanted`, which does not know of it."""
        self._needless = Manifest(bits=0, size=self.size)
        """What drivers have that are gone."""
        self._leaving = Manifest(bits=0, size=self.size)
        """What is being undone beside serving."""

    # ------------------------------------------------------------------ requests

    def numbers(self, seat: Seat) -> range:
        """The microbatches of a driver's seat."""
        return numbers(seat, self.open, self._plan.microbatch)

    def admit(self, tag: Tag, caller: str) -> Refusal | None:
        """Take a request, which `served` or `dropped` answers, or say why not."""
        driver = self.open.seat(caller)
        if tag.stage != self.seat.stage:
            return Refusal(code=NOT_OURS)
        if driver is None or driver.stage != 0 or tag.microbatch not in self.numbers(driver):
            return Refusal(code=NOT_OURS)
        if self.floor != NO_ATTEMPT and tag.attempt <= self.floor:
            return Refusal(code="FROZEN")
        if tag in self._pending:
            return Refusal(code="WORKING")
        own = self.numbers(driver)
        here = sum(each.microbatch in own for each in self._pending)
        full = len(self._pending) >= self._room or here >= FLOOD * self._plan.in_flight
        if self.undoing or tag.microbatch in self._leaving or full:
            return Refusal(code="BUSY")
        self._pending.add(tag)
        self._needless -= Manifest.of(own, self.size)  # it is there after all
        if tag.layer >= 0 and tag.kind is Kind.BACKWARD:
            self.held -= Manifest.of([tag.microbatch], self.size)  # until the driver says what it is made of
        return None

    def served(self, tag: Tag) -> None:
        """The worker did it."""
        if self._over(tag) and tag.kind is Kind.BACKWARD and tag.layer < 0:
            self._hold(tag)

    def _hold(self, tag: Tag) -> None:
        found = Manifest.of([tag.microbatch], self.size)
        self.held |= found
        if tag.attempt > self.floor:
            self._later |= found

    def dropped(self, tag: Tag) -> None:
        """The worker could not do it."""
        self._over(tag)

    def _over(self, tag: Tag) -> bool:
        known = tag in self._pending
        self._pending.discard(tag)
        return known

    @property
    def under_way(self) -> int:
        """Requests that wait or are served."""
        return len(self._pending)

    @property
    def still(self) -> bool:
        """Whether nothing is under way that could change the accumulator."""
        return not self.undoing and not any(tag.kind is Kind.BACKWARD for tag in self._pending)

    def undo(self, microbatches: Iterable[int], *, beside: bool = False) -> None:
        """The worker takes these out; until it has, nothing is taken in, or `beside` serving nothing of these."""
        leaving = Manifest.of(microbatches, self.size)
        self.held -= leaving
        self._leaving = leaving
        self.undoing = not beside

    def undone(self, kept: Iterable[int]) -> None:
        """It has; these it could not take out by themselves."""
        self.held |= Manifest.of(kept, self.size)
        self._needless -= Manifest.of(kept, self.size)
        self._leaving = Manifest(bits=0, size=self.size)
        self.undoing = False

    def lose(self) -> None:
        """The accumulator is not to be trusted: the worker begins with an empty one again."""
        self.held = self._leaving = Manifest(bits=0, size=self.size)
        self.undoing = self.begun = False
        self._pending.clear()

    # ------------------------------------------------------------------ orders

    def freeze(self, order: Freeze) -> bool:
        """Take the order to hold exactly this; whether it is news.

        Raises:
            RoundError: FP-450, a manifest that does not fit the round.
        """
        wanted = Manifest.read(order.manifest, self.size)
        if order.attempt <= self.floor:
            return False
        self.floor, self.wanted, self._later = order.attempt, wanted, Manifest(bits=0, size=self.size)
        self.cut, self.norm, self.applied = None, "", ""
        return True

    def take(self, order: Cut) -> bool:
        """Take the receipts that count; whether that is news."""
        known = self.cut
        same = known is not None and known.receipts == order.receipts
        told = known is not None and len(known.norms) >= len(order.norms)
        if order.attempt < self.floor or (order.attempt == self.floor and same and told):
            return False
        if not same:
            self.norm = self.applied = ""
        self.floor, self.cut = order.attempt, order
        return True

    def lost(self, order: Losses) -> None:
        """Members lost what they held: what the drivers among them drove will not count, unless they call again."""
        known = self.losses.number if self.losses.leader == order.leader else 0
        self.losses = Attempt(max(known, len(order.accounts)), order.leader)
        for account in order.accounts[known:]:
            seat = self.open.seat(account)
            if seat is not None and seat.stage == 0 and seat != self.seat and not self._plan.experts:
                self._needless |= Manifest.of(self.numbers(seat), self.size)

    def needless(self, now: float) -> tuple[int, ...]:
        """What can be undone meanwhile: one microbatch, while nothing else is to be done; late, in turn with it."""
        late = now >= self.until - LATE * self._plan.plan.time_budget_s
        if self.wanted is not None or self.cut is not None or self.undoing or (self._pending and not late):
            return ()
        asked = Manifest.of((tag.microbatch for tag in self._pending), self.size)
        return tuple(islice((self.held & self._needless) - asked, 1))

    @property
    def extra(self) -> tuple[int, ...]:
        """What is to be undone now."""
        if self.wanted is None or self.cut is not None or not self.still:
            return ()
        return tuple(self.held - self.wanted - self._later)

    @property
    def lacking(self) -> str:
        """What of the wanted is not here, as a manifest, once that is sure; empty if nothing is."""
        if self.wanted is None or self.cut is not None or not self.still or self.written:
            return ""
        lacking = self.wanted - self.held
        return lacking.hex if lacking else ""

    @property
    def written(self) -> bool:
        """Whether there is a receipt for just what is wanted."""
        return self.wanted is not None and self.receipt is not None and self.receipt.served == self.wanted.hex

    @property
    def writable(self) -> bool:
        """Whether the accumulator is what is wanted, and is to be written."""
        exact = self.still and self.wanted is not None and self.cut is None and self.held == self.wanted
        return exact and bool(self.held) and not self.written

    def tell(self, status: Status) -> Status:
        """The same status with how our part stands."""
        cut = self.cut
        return replace(
            status, frozen=self.floor, losses=self.losses, lacking=self.lacking, receipt=self.receipt, norm=self.norm,
            cut=cut.receipts if cut is not None else (), armed=cut is not None and bool(cut.norms),
            applied=self.applied,
        )  # fmt: skip

"""How fast each member is, as the leader saw it, and the quotas with which all of a roster finish together.

Of the time from a round's opening to a delivery a part does not depend on the quota: until the member holds the state
that it starts from, and until its update, once finished, is here and decoded. That is its overhead; the rest is
training and tells its speed. A delivery moves both half of the way to what was seen, the speed on a logarithmic scale;
a missed cut halves the speed or, where the member started so late that it could not be in time, moves the overhead.

When a member starts its heartbeats tell. Who says it late looks quick but far away, and needs just as long for the same
quota; so this pays nobody. The slots are those of its receipts, never more than its quota; all times are ours.

With overlap nothing but training takes time, the rest is hidden behind it. It begins before the opening and may wait
for that, so how long it took is the member's word, within limits (`desk`).

Pure: numbers in, numbers out; times are seconds on the caller's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from statistics import median, median_low

from peer.rounds.log import Seat, SettledRound
from peer.rounds.plan import Plan

LEAST_S = 1.0
"""No round is planned shorter: below it latency decides, not speed."""
EVEN = 0.9
"""Whoever would use this share of a whole quota gets the whole one: equal machines stay equal although times vary."""
HEADROOM = 1.25
"""Where the time budget ends the training, quotas leave room for so many times what was seen."""
CAUTION = 0.5
"""A newcomer's quota over the median one of the others."""
STRETCH = 1.25
"""Whoever needs longer for a single batch than so many times the planned round, …"""
APART = 8.0
"""… and so many times longer than the median member, or does not even hold the state by then, is not in every round."""
SURE = 3
"""It takes so many deliveries or missed cuts to know that."""
LOSS = 0.1
"""Such a member comes so rarely that waiting for its batch costs the others no more than this share of their time."""
ROUND_UP = 1.1
"""Quotas are rounded to whole batches, but up by no more than this factor: one batch too many holds up everybody."""
MOST_OVERHEAD = 0.9
"""Of the time until a delivery, at least the rest was training, whatever the heartbeats said."""
FIRST_GAP_S = 0.5
"""From a cut to the next round's opening, while none was seen."""
LENGTHS = 64
"""So many lengths of a round are weighed against each other, at most."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was seen of one member."""

    speed: float
    """Slots a second while it trains."""
    overhead_s: float = 0.0
    """Of a round, whatever its quota."""
    slots: float = 1.0
    """Delivered, usually."""
    times: int = 0
    """How often it was seen."""

    def needs_s(self, slots: float) -> float:
        """From the opening until so many slots are delivered."""
        return self.overhead_s + slots / self.speed

    def with_overhead(self, most_s: float) -> Known:
        """The same, as if of the time that it usually needs only so much were overhead, and the rest training."""
        if self.overhead_s <= most_s:
            return self
        return replace(self, overhead_s=most_s, speed=self.slots / (self.needs_s(self.slots) - most_s))


class Speeds:
    """Speeds and overheads by account. Written only by the leader's machine."""

    def __init__(self, plan: Plan, settled: Iterable[SettledRound]) -> None:
        """Nothing was seen yet; until it is, a member of the `settled` rounds gets what it last delivered."""
        self._plan = plan
        self._known: dict[str, Known] = {}
        self._gap_s = 0.0 if plan.overlap else FIRST_GAP_S
        self._cut_at: float | None = None
        self._last = {receipt.account: receipt.slots.count for done in settled for receipt in done.receipts}

    # ------------------------------------------------------------------ learning

    def delivered(self, account: str, slots: int, needed_s: float, overhead_s: float = 0.0) -> None:
        """A member delivered so many slots `needed_s` after the opening, of which it did not train `overhead_s`."""
        overhead_s = min(overhead_s, MOST_OVERHEAD * needed_s)
        seen = slots / max(needed_s - overhead_s, 1e-3)
        old = self._known.get(account, Known(speed=seen, overhead_s=overhead_s, slots=slots))
        self._known[account] = Known(
            speed=sqrt(old.speed * seen),
            overhead_s=(old.overhead_s + overhead_s) / 2,
            slots=(old.slots + slots) / 2,
            times=old.times + 1,
        )

    def late(self, seat: Seat, waited_s: float, overhead_s: float = 0.0) -> None:
        """A member worked on but had delivered nothing when the round was cut, `waited_s` after its opening.

        `overhead_s`: after so long it held the state, or else `waited_s`.
        """
        had_s = max(waited_s - overhead_s, 1e-3)
        most = seat.quota / had_s
        least = self._plan.batch_size / (2 * self._plan.first_deadline_s)
        old = self._known.get(seat.account, Known(speed=most, overhead_s=overhead_s, slots=seat.quota))
        excused = old.times > 0 and old.speed < most
        self._known[seat.account] = replace(
            old,
            speed=old.speed if excused else max(least, min(old.speed, most) / 2),
            overhead_s=(old.overhead_s + overhead_s) / 2,
            times=old.times + 1,
        )

    def cut(self, now: float) -> None:
        """A round is cut: nobody trains until the next is open, unless with overlap."""
        self._cut_at = None if self._plan.overlap else now

    def opened(self, now: float) -> None:
        """A round is settled, and perhaps the next one open."""
        if self._cut_at is not None:
            self._gap_s = (self._gap_s + now - self._cut_at) / 2
        self._cut_at = None

    # ------------------------------------------------------------------ the next round

    def in_time(self, accounts: Sequence[str], *, round: int, wanted: int) -> list[str]:
        """These without the ones for whose single batch this round does not wait; `wanted` of them at least."""
        round_s, left = self._round_s(accounts), len(accounts) - wanted
        if round_s is None:
            return list(accounts)
        batch = self._plan.batch_size
        middle_s = median(self._known[account].needs_s(batch) for account in accounts if account in self._known)
        chosen = []
        for account in accounts:
            known = self._known.get(account)
            if known is not None and known.times >= SURE and left > 0:
                needed = known.needs_s(batch) / round_s
                apart = known.needs_s(batch) > APART * middle_s or known.overhead_s > round_s
                if needed > STRETCH and apart and round % ceil((needed - 1) / LOSS):
                    left -= 1
                    continue
            chosen.append(account)
        return chosen

    def quotas(self, accounts: Sequence[str]) -> list[int]:
        """Slots for each of a roster: whole batches, at least one and at most `plan.quota`."""
        round_s = self._round_s(accounts)
        if round_s is None:
            return [self._before(account, self._plan.quota) for account in accounts]
        seen = {account: self._share(self._known[account], round_s) for account in accounts if account in self._known}
        cautious = self._batches(int(CAUTION * median(seen.values()) / self._plan.batch_size))
        return [seen[account] if account in seen else self._before(account, cautious) for account in accounts]

    def but_slowest(self, accounts: Sequence[str]) -> list[str]:
        """These without the slowest one, if there is more than one; whoever was not seen yet counts as the slowest."""
        slowest = min(accounts, key=lambda name: self._known[name].speed if name in self._known else 0.0, default="")
        return [account for account in accounts if account != slowest or len(accounts) == 1]

    def time_s(self, account: str, slots: int) -> float:
        """How long this account should need for so many slots; 0 if it was never seen to deliver."""
        known = self._known.get(account)
        return known.needs_s(slots) if known is not None else 0.0

    def expected_s(self, seat: Seat) -> float | None:
        """How long this seat should need; None for a member that was never seen to deliver."""
        known = self._known.get(seat.account)
        if known is None:
            return None
        budget_s = max(self._plan.time_budget_s, self._plan.batch_size / known.speed)  # which a batch ends first
        return known.overhead_s + min(seat.quota / known.speed, budget_s)

    def round_s(self, roster: Sequence[Seat]) -> float | None:
        """How long a round with these seats should take; None while nobody's speed is known.

        Whoever seems not even to hold the state by then, and is not surely so, is not counted on.
        """
        planned_s = self._round_s([seat.account for seat in roster])
        if planned_s is None:
            return None
        known = {seat: self._known[seat.account] for seat in roster if seat.account in self._known}
        near = [seat for seat, one in known.items() if one.overhead_s <= planned_s or one.times >= SURE]
        return max(expected_s for seat in near or known if (expected_s := self.expected_s(seat)) is not None)

    def _round_s(self, accounts: Sequence[str]) -> float | None:
        """How long the round is planned: so that most slots a second come of it, the gap after it counted in.

        Among the lengths with which one of the members uses up a whole quota or the time budget. Where overheads are
        short against the training, this is what the fastest needs; where they are long, it pays to wait for others.
        Overheads are believed up to what half of the members have: no single one can draw the rounds out.
        """
        known = [self._known[account] for account in accounts if account in self._known]
        if not known:
            return None
        usual_s = median_low(one.overhead_s for one in known)
        known = [one.with_overhead(usual_s) for one in known]
        lengths = sorted({max(one.overhead_s + self._trains_s(one), LEAST_S) for one in known})
        lengths = lengths[:: ceil(len(lengths) / LENGTHS)]

        def slots_a_second(round_s: float) -> float:
            trained = (min(round_s - one.overhead_s, self._trains_s(one)) * one.speed for one in known)
            return sum(slots for slots in trained if slots > 0) / (round_s + self._gap_s)

        return max(lengths, key=slots_a_second)

    def _trains_s(self, known: Known) -> float:
        """How long it may train: until it has used up a whole quota or the time budget."""
        return min(self._plan.quota / known.speed, self._plan.time_budget_s)

    def _share(self, known: Known, round_s: float) -> int:
        left_s, budget_s = max(0.0, round_s - known.overhead_s), self._plan.time_budget_s
        slots = known.speed * (left_s if left_s < budget_s else HEADROOM * budget_s)
        if slots >= EVEN * self._plan.quota:
            return self._plan.quota
        count = slots / self._plan.batch_size
        nearest = round(count)
        return self._batches(nearest if nearest <= ROUND_UP * count else nearest - 1)

    def _before(self, account: str, otherwise: int) -> int:
        """What a member that we have not seen delivered to a leader before us."""
        slots = self._last.get(account)
        return otherwise if slots is None else self._batches(ceil(slots / self._plan.batch_size))

    def _batches(self, count: int) -> int:
        """So many batches in slots, within what a seat may have."""
        return min(max(count, 1) * self._plan.batch_size, self._plan.quota)

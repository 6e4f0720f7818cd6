"""How fast each member is, as the leader saw it, and the quota with which all of a roster finish together.

A delivery moves a member's speed half of the way to what was seen, on a logarithmic scale; a missed cut halves it. The
time from a round's opening to the delivery falls as the quota falls, so this settles where the member needs just as
long as the others and does not swing. The slots are those of its receipts, never more than its quota; the time is ours.
With overlap a training begins before the opening and may wait for it: there the time is the member's word, within
limits (`desk`).

Pure: numbers in, numbers out; times are seconds on the caller's clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil, sqrt
from statistics import median

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
"""… and is so many times slower than the median member, is not in every round. The median: no single one decides it."""
SURE = 3
"""It takes so many deliveries or missed cuts to know that."""
LOSS = 0.1
"""Such a member comes so rarely that waiting for its batch costs the others no more than this share of their time."""
ROUND_UP = 1.1
"""Quotas are rounded to whole batches, but up by no more than this factor: one batch too many holds up everybody."""


class Speeds:
    """Slots a second by account, from a round's opening to the delivery. Written only by the leader's machine."""

    def __init__(self, plan: Plan, settled: Iterable[SettledRound]) -> None:
        """Nothing was seen yet; until it is, a member of the `settled` rounds gets what it last delivered."""
        self._plan = plan
        self._seen: dict[str, float] = {}
        self._times: Counter[str] = Counter()
        """How often each speed was seen."""
        self._last = {receipt.account: receipt.slots.count for done in settled for receipt in done.receipts}

    def delivered(self, account: str, slots: int, needed_s: float) -> None:
        """A member delivered so many slots `needed_s` after the opening."""
        self._times[account] += 1
        seen = slots / max(needed_s, 1e-3)
        self._seen[account] = sqrt(self._seen.get(account, seen) * seen)

    def late(self, seat: Seat, waited_s: float) -> None:
        """A member worked on but had delivered nothing when the round was cut, `waited_s` after its opening."""
        self._times[seat.account] += 1
        most = seat.quota / max(waited_s, 1e-3)
        least = self._plan.batch_size / (2 * self._plan.first_deadline_s)
        self._seen[seat.account] = max(least, min(self._seen.get(seat.account, most), most) / 2)

    def in_time(self, accounts: Sequence[str], *, round: int, wanted: int) -> list[str]:
        """These without the ones for whose single batch this round does not wait; `wanted` of them at least."""
        round_s, left = self._round_s(accounts), len(accounts) - wanted
        if round_s is None:
            return list(accounts)
        middle = median(self._seen[account] for account in accounts if account in self._seen)
        chosen = []
        for account in accounts:
            speed = self._seen.get(account, middle)
            needed = self._plan.batch_size / speed / round_s
            slow = needed > STRETCH and speed * APART < middle and self._times[account] >= SURE
            if slow and round % ceil((needed - 1) / LOSS) and left > 0:
                left -= 1
            else:
                chosen.append(account)
        return chosen

    def quotas(self, accounts: Sequence[str]) -> list[int]:
        """Slots for each of a roster: whole batches, at least one and at most `plan.quota`."""
        round_s = self._round_s(accounts)
        if round_s is None:
            return [self._before(account, self._plan.quota) for account in accounts]
        seen = {account: self._share(self._seen[account] * round_s) for account in accounts if account in self._seen}
        cautious = self._batches(int(CAUTION * median(seen.values()) / self._plan.batch_size))
        return [seen[account] if account in seen else self._before(account, cautious) for account in accounts]

    def but_slowest(self, accounts: Sequence[str]) -> list[str]:
        """These without the slowest one, if there is more than one; whoever was not seen yet counts as the slowest."""
        slowest = min(accounts, key=lambda account: self._seen.get(account, 0.0), default="")
        return [account for account in accounts if account != slowest or len(accounts) == 1]

    def time_s(self, account: str, slots: int) -> float:
        """How long this account should need for so many slots; 0 if it was never seen to deliver."""
        return slots / self._seen[account] if account in self._seen else 0.0

    def expected_s(self, seat: Seat) -> float | None:
        """How long this seat should need; None for a member that was never seen to deliver."""
        return seat.quota / self._seen[seat.account] if seat.account in self._seen else None

    def round_s(self, roster: Sequence[Seat]) -> float | None:
        """How long a round with these seats should take; None while nobody's speed is known."""
        expected = (self.expected_s(seat) for seat in roster)
        return max((expected_s for expected_s in expected if expected_s is not None), default=None)

    def _round_s(self, accounts: Sequence[str]) -> float | None:
        """In so long the fastest uses up a whole quota, or everybody the time budget."""
        fastest = max((self._seen[account] for account in accounts if account in self._seen), default=None)
        if fastest is None:
            return None
        return min(max(self._plan.quota / fastest, LEAST_S), HEADROOM * self._plan.time_budget_s)

    def _share(self, slots: float) -> int:
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

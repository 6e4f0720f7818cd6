"""A driver's machine where the model's experts live on other peers: a microbatch goes through our own trunk, whose
worker asks the chosen holders meanwhile; then every holder is told which calls it is made of, which makes it count.

A holder that fails is done without: the microbatch is driven again with another replica of the group, or without the
group where there is none. What is through the trunk counts, whichever groups count it besides: the trunk cannot take it
out again.

Pure: as `drive`.
"""

from __future__ import annotations

from collections import Counter

from peer.stages.drive import AGAIN_S, Driver
from peer.stages.jobs import Job, Sent, Step
from peer.stages.messages import NO_ATTEMPT, Halt, Kind, Losses, Refusal
from peer.stages.tasks import Answered, Call, Declined, DriverMessage, Reset

MISSING = "MISSING"
"""The code of a refusal: our records of a microbatch are gone, nobody else can count it."""


class TrunkDriver(Driver):
    """Drives one seat's microbatches in one round, group g being stage g + 1."""

    def receive(self, message: DriverMessage | Losses | Halt, now: float) -> list[Call]:
        """Take one message."""
        sent = self._awaited(message.id) if isinstance(message, Answered | Declined | Reset) else None
        if sent is not None and isinstance(message, Reset) and message.account:
            self._router.failed(message.account, now)
            sent.job.without.add(message.account)
            sent.job.sent = None
            return self.tick(now)
        if sent is not None and isinstance(message, Declined) and self._over(sent, message.refusal, now):
            return self.tick(now)
        return super().receive(message, now)

    def gives_up(self, account: str) -> bool:
        """Whether nobody waits for this holder any more: the leader said that it is lost."""
        return account in self._gone

    def _replay_lost(self, order: Losses) -> None:
        super()._replay_lost(order)
        self._gone |= set(order.accounts)  # who is back is asked again in the next round

    def _answered(self, message: Answered, now: float) -> None:
        sent = self._calls.get(message.id)
        super()._answered(message, now)
        if sent is not None:
            self._row_of(sent.job)

    def _over(self, sent: Sent, refusal: Refusal, now: float) -> bool:
        """Whether that was the end of this call, for a reason that no other replica is to blame for."""
        job, code = sent.job, refusal.code
        if code == "BUSY" and job.made:
            job.sent, job.same, job.again_at = None, "", now + min(refusal.wait_s, AGAIN_S)
            return True
        if code == MISSING:
            self._without_it(job)
            return True
        if code == "FROZEN" and sent.call.tag.attempt != self.attempt and job.made:
            job.sent, job.same = None, ""  # the same again, for the newer attempt
            return True
        if code == "FROZEN" and not job.made:
            self._jobs = [other for other in self._jobs if other is not job]
            if self.attempt == NO_ATTEMPT:
                self.stop()
            return True
        return False

    def _row_of(self, job: Job) -> None:
        """Once it is through the trunk it counts."""
        if job.made and (not job.replay or job.microbatch in self.table):
            self.table[job.microbatch] = self._row(job.microbatch)

    def _row(self, microbatch: int) -> tuple[str, ...]:
        found = (self._records.get((stage, microbatch)) for stage in range(1, len(self._replicas)))
        return tuple(record.account if record is not None else "" for record in found)

    # ------------------------------------------------------------------ jobs

    @property
    def _most_here(self) -> int:
        return self._in_flight  # our worker waits for the holders most of the time

    def _steps(self) -> tuple[Step, ...]:
        return tuple((stage, Kind.BACKWARD) for stage in range(len(self._replicas)))

    def _replay(self, stage: int, microbatch: int) -> Job:
        """Of the trunk: all of it again; of a group, what it was asked."""
        steps = ((stage, Kind.BACKWARD),) if stage else self._steps()
        return Job(
            microbatch=microbatch, steps=steps, inputs={}, replay=True, holders=self._row(microbatch) if stage else ()
        )

    def stop(self) -> None:
        """Begin nothing more; what is at the trunk, or was, goes on to its end."""
        self.halted = True
        self._jobs = [job for job in self._jobs if job.replay or job.made or job.sent is not None]

    def _halt(self, order: Halt) -> None:
        newer = order.attempt > self.attempt
        kept = [job for job in self._jobs if (job.made or job.sent is not None) and not (job.replay and job.step[0])]
        super()._halt(order)
        if newer:
            self._jobs = kept
            under_way = {job.microbatch for job in kept}
            self._lost = {place: None for place in self._lost if place[1] not in under_way}

    # ------------------------------------------------------------------ calls

    def _place(self, job: Job, now: float) -> Call | None:
        if job.step[0] == 0:
            job.holders = tuple(self._holder(job, stage, now) for stage in range(1, len(self._replicas)))
            return super()._place(job, now)
        while any(job is other for other in self._jobs):
            if job.step[0] and self._choose(job, now) is None and not job.same:
                self._without_it(job)
            else:
                return super()._place(job, now)
        return None

    def _holder(self, job: Job, stage: int, now: float) -> str:
        """Who serves a group in a microbatch: whoever did before, or whom the router picks of those that serve the
        fewest of ours just now; empty: nobody."""
        able = [account for account in self._candidates(stage) if account not in job.without]
        record = self._records.get((stage, job.microbatch))
        if record is not None and record.account in able:
            return record.account
        others = [other for other in self._jobs if other is not job and not other.made]
        here = Counter(account for other in others for account in other.holders)
        least = min((here[account] for account in able), default=0)
        idle = [account for account in able if here[account] == least]
        picked = (self._router.pick(accounts, stage, Kind.BACKWARD, now) for accounts in (idle, able))
        return next(filter(None, picked), "")

    def _choose(self, job: Job, now: float) -> str | None:
        stage, _ = job.step
        if stage == 0:
            return self._account
        able = [account for account in self._candidates(stage) if account not in job.without]
        served = job.holders[stage - 1]
        if not served or not able:
            return None
        lost = job.replay and len(job.steps) == 1
        return served if served in able and not lost else self._router.pick(able, stage, Kind.BACKWARD, now) or able[0]

    def _without_it(self, job: Job) -> None:
        """Nobody counts this group's part."""
        self._records.pop((job.step[0], job.microbatch), None)
        job.made += 1
        job.sent, job.same, job.again_at = None, "", 0.0
        job.without.clear()
        self._row_of(job)
        if job.made == len(job.steps):
            self._jobs = [other for other in self._jobs if other is not job]

"""A driver's machine for one round: takes its slots' microbatches through all stages, several at a time.

A microbatch goes forward through stages 0 … k−2, in the last stage forward and backward at once, then backward to
stage 0. What every stage was given is recorded by handles, so that one stage's part can be replayed elsewhere until the
round is settled. A call that takes too long is made once more at the same replica, which recognises it, then at another
one; a broken line sends it to another one at once. Whatever is late and was done twice the leader finds out.

Pure: fed `receive(message, now)` and `tick(now)`; what comes back are calls to make.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from peer.rounds.log import OpenRound
from peer.stages.jobs import Job, Record, Sent, Step, unanswered, way, window
from peer.stages.messages import NO_ATTEMPT, Attempt, Halt, Kind, Losses, Status, Tag
from peer.stages.routing import Router
from peer.stages.tasks import Answered, Call, Declined, DriverMessage, Reset

ENOUGH_HERE = 3
"""With so many microbatches at our own stage no other is begun: our worker is busy, and they would only wait."""
AGAIN_S = 1.0
"""When nobody can be called, it is looked again after so long."""


class Driver:
    """Drives one seat's microbatches in one round."""

    def __init__(
        self, *, account: str, open_round: OpenRound, replicas: Mapping[int, tuple[str, ...]],
        microbatches: Iterable[int], in_flight: int, until: float, router: Router, ids: Iterator[int],
    ) -> None:  # fmt: skip
        """Begin.

        Args:
            account: ours; our own worker serves stage 0.
            open_round: the round.
            replicas: accounts by stage, from 1 on.
            microbatches: numbers of those of our seat.
            in_flight: so many are under way at a time, if our worker is as quick as others are.
            until: the round's time budget is over then, and nothing is begun any more.
            router: what we know of the replicas.
            ids: numbers for calls that were never given to any other.
        """
        self.open = open_round
        self.table: dict[int, tuple[str, ...]] = {}
        """Who holds what was driven through all stages: replicas of stages 1, 2, … by microbatch."""
        self.attempt = NO_ATTEMPT
        """The newest for which we were halted."""
        self.halted = False
        """Nothing is begun any more."""
        self.losses: Attempt = NO_ATTEMPT
        """How many were told of, and by whom."""
        self._account = account
        self._replicas = {0: (account,), **replicas}
        self._way = self._steps()
        self._waiting = list(reversed(list(microbatches)))
        self._in_flight = in_flight
        self._own_s: dict[Kind, float] = {}
        """What our own worker needed last, by kind of call."""
        self._until = until
        self._router = router
        self._ids = ids
        self._jobs: list[Job] = []
        self._calls: dict[int, Sent] = {}
        """By id; also those that we do not wait for any more."""
        self._records: dict[tuple[int, int], Record] = {}
        """By stage and microbatch."""
        self._lost: dict[tuple[int, int], None] = {}
        """Stage and microbatch of what is to be replayed, in order."""
        self._gone: frozenset[str] = frozenset()
        self._now = 0.0

    @property
    def finished(self) -> bool:
        """Nothing is under way, and nothing will be begun."""
        return not self._jobs and not self._lost and (self.halted or not self._waiting or self._now >= self._until)

    @property
    def settled_for(self) -> Attempt:
        """The newest attempt for which we are halted with all gaps closed."""
        return NO_ATTEMPT if self._jobs or self._lost else self.attempt

    @property
    def under_way(self) -> int:
        """Microbatches that are."""
        return len(self._jobs)

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do; None if only an answer can help."""
        times = [job.sent.due_at if job.sent is not None else job.again_at for job in self._jobs]
        if not self._jobs and self._waiting and not self.halted and self._now < self._until:
            times.append(self._until)
        return min((time for time in times if time), default=None)

    def tell(self, status: Status) -> Status:
        """The same status with how the driving stands."""
        table = tuple(sorted(self.table.items())) if self.attempt != NO_ATTEMPT else ()
        return replace(status, finished=self.finished, halted=self.settled_for, table=table)

    # ------------------------------------------------------------------ input

    def receive(self, message: DriverMessage | Losses | Halt, now: float) -> list[Call]:
        """Take one message."""
        match message:
            case Halt():
                self._halt(message)
            case Losses():
                self._replay_lost(message)
            case Answered():
                self._answered(message, now)
            case Declined():
                self._declined(message, now)
            case Reset():
                if (sent := self._awaited(message.id)) is not None:
                    self._elsewhere(sent, now)
        return self.tick(now)

    def tick(self, now: float) -> list[Call]:
        """Give up calls that are overdue, begin what can be begun."""
        self._now = now
        for job in self._jobs:
            if job.sent is not None and job.sent.due_at and now >= job.sent.due_at:
                self._overdue(job.sent, now)
        self._begin(now)
        made = [self._place(job, now) for job in self._jobs if job.sent is None and now >= job.again_at]
        return [call for call in made if call is not None]

    def _begin(self, now: float) -> None:
        replays = sum(job.replay for job in self._jobs)
        while self._lost and replays < self._in_flight:
            stage, microbatch = place = next(iter(self._lost))
            del self._lost[place]
            replays += 1
            self._jobs.append(self._replay(stage, microbatch))
        here = sum(job.step[0] == 0 for job in self._jobs)
        while self._waiting and len(self._jobs) - replays < self._most and not self.halted and now < self._until:
            if here >= self._most_here:
                break
            here += 1
            self._jobs.append(Job(microbatch=self._waiting.pop(), steps=self._way, inputs={0: ""}))

    @property
    def _most(self) -> int:
        usual, others = self._router.services(), len(self._replicas) - 1
        return window(self._in_flight, least=ENOUGH_HERE, own_s=self._own_s, usual=usual, others=others)

    @property
    def _most_here(self) -> int:
        """Microbatches at our own stage with which no other is begun."""
        return ENOUGH_HERE

    def _steps(self) -> tuple[Step, ...]:
        return way(len(self._replicas))

    def _replay(self, stage: int, microbatch: int) -> Job:
        record = self._records[stage, microbatch]
        return Job(
            microbatch=microbatch, steps=((stage, Kind.BACKWARD),), inputs={stage: record.input},
            gradient=record.gradient, replay=True,
        )  # fmt: skip

    def stop(self) -> None:
        """Begin nothing more, and give up what is under way."""
        self.halted = True
        self._jobs = [job for job in self._jobs if job.replay]

    def _halt(self, order: Halt) -> None:
        """Stop; replay what is lacking. The same order again may name others who are gone."""
        self._gone = frozenset(order.gone)
        if order.attempt <= self.attempt:
            return
        self.stop()
        self.attempt, self._jobs = order.attempt, []
        self._lost = {place: None for place in order.gaps if place in self._records}

    def _replay_lost(self, order: Losses) -> None:
        """What these replicas held is replayed, though nobody asked for it yet: the others are busy anyway."""
        known = self.losses.number if self.losses.leader == order.leader else 0
        self.losses = Attempt(max(known, len(order.accounts)), order.leader)
        lost = set(order.accounts[known:]) - {self._account}  # we are here, whatever was thought of us
        if not self.halted:
            self._lost.update({place: None for place, record in self._records.items() if record.account in lost})

    # ------------------------------------------------------------------ answers

    def _awaited(self, call: int) -> Sent | None:
        """The call of this id, if a job waits for it."""
        sent = self._calls.get(call)
        return sent if sent is not None and sent.job.sent is sent else None

    def _answered(self, message: Answered, now: float) -> None:
        """The first answer to any call of a step counts, also one that is not waited for any more."""
        sent = self._calls.pop(message.id, None)
        if sent is None or sent.job.made != sent.made or not any(job is sent.job for job in self._jobs):
            return
        job, call = sent.job, sent.call
        stage, kind = job.step
        if stage:
            self._router.answered(
                call.account, stage, kind, now, took_s=now - sent.at, service_s=message.service_s,
                waited_s=message.waited_s, queue_s=message.queue_s,
            )  # fmt: skip
        else:
            self._own_s[kind] = message.service_s
        if kind is Kind.FORWARD:
            job.inputs[stage + 1] = message.value
        else:
            record = Record(account=call.account, input=call.input, gradient=call.gradient)
            self._records[stage, job.microbatch] = record
            job.gradient = message.value
        job.made += 1
        job.sent, job.same, job.again_at = None, "", 0.0
        job.without.clear()
        if job.made == len(job.steps):
            self._jobs = [other for other in self._jobs if other is not job]
            if not job.replay or job.microbatch in self.table:
                self.table[job.microbatch] = self._row(job.microbatch)

    def _row(self, microbatch: int) -> tuple[str, ...]:
        return tuple(self._records[stage, microbatch].account for stage in range(1, len(self._replicas)))

    def _declined(self, message: Declined, now: float) -> None:
        sent = self._awaited(message.id)
        if sent is None:
            return
        refusal, job = message.refusal, sent.job
        if refusal.code == "FROZEN" and self.attempt == NO_ATTEMPT:
            self.stop()  # the round is being brought to its end, as we shall be told
        elif refusal.code == "WORKING":
            self._patient(sent, refusal.wait_s, now)
        elif refusal.code == "BUSY":
            own = sent.call.account == self._account
            self._router.busy(sent.call.account, now, refusal.wait_s)
            job.sent, job.same = None, ""
            job.again_at = now + (min(refusal.wait_s, AGAIN_S) if own else 0.0)
        else:
            self._elsewhere(sent, now)

    def _patient(self, sent: Sent, wait_s: float, now: float) -> None:
        """It is at it: the answer to an earlier call will come."""
        due_at = now + self._router.working_s(wait_s)
        sent.job.same = ""
        sent.job.sent = self._calls[sent.call.id] = replace(sent, due_at=due_at)

    def _overdue(self, sent: Sent, now: float) -> None:
        """Once more the same one, which knows the request if it came; then another."""
        if sent.job.same:
            self._elsewhere(sent, now)
        else:
            sent.job.sent, sent.job.same = None, sent.call.account

    def _elsewhere(self, sent: Sent, now: float) -> None:
        """It failed: another one is called, or after a while the same."""
        job, account = sent.job, sent.call.account
        job.sent, job.same = None, ""
        if account == self._account:
            job.again_at = now + AGAIN_S
        else:
            self._router.failed(account, now)
            job.without.add(account)

    # ------------------------------------------------------------------ calls

    def _place(self, job: Job, now: float) -> Call | None:
        """Make the call of a job's next step, or say when to look again."""
        stage, kind = job.step
        account = job.same or self._choose(job, now)
        if account is None:
            free_at = self._router.free_at(self._candidates(stage))
            job.again_at = free_at if free_at is not None and free_at > now else now + AGAIN_S
            return None
        tag = Tag(
            round=self.open.round, state=self.open.state, stage=stage, microbatch=job.microbatch, kind=kind,
            attempt=self.attempt,
        )  # fmt: skip
        gradient = job.gradient if kind is Kind.BACKWARD else ""
        call = Call(
            id=next(self._ids), account=account, tag=tag, input=job.inputs.get(stage, ""), gradient=gradient,
            holders=job.holders if stage == 0 else (),
        )  # fmt: skip
        due_at = now + self._router.timeout_s(account, stage, kind, now) if stage else 0.0
        if stage:
            self._router.sent(account, stage, kind, now)
        job.sent = self._calls[call.id] = Sent(call=call, job=job, made=job.made, at=now, due_at=due_at)
        return call

    def _candidates(self, stage: int) -> list[str]:
        return [account for account in self._replicas[stage] if account not in self._gone]

    def _choose(self, job: Job, now: float) -> str | None:
        stage, kind = job.step
        if stage == 0:
            return self._account
        return self._router.pick(self._candidates(stage), stage, kind, now, job.without, unanswered(self._jobs))

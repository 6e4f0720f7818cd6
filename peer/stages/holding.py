"""What a replica's worker holds: which stage's state, whether that is what it should be, and the way there.

A replica holds the state that the open round starts from, or already what came of that round's cut. What was settled
meanwhile it applies if it was told what counts and the norms; else it loads a snapshot. What breaks is tried the other
way.

Pure: reads the run's log.
"""

from __future__ import annotations

from peer.rounds.log import RunLog
from peer.stages.messages import Cut
from peer.stages.tasks import AppliedStage, ApplyStage, HoldsStage, LoadStage

Held = tuple[int, int, str]
"""(round, stage, id of the stage's state after it)"""


class Holding:
    """The state in one worker. Written only by the replica's machine."""

    def __init__(self, log: RunLog, *, held: Held | None, stage: int | None) -> None:
        """The worker holds this, and is to serve this stage, as far as is known."""
        self.held = held
        self.stage = stage if held is None else held[1]
        """The one that we are to serve."""
        self.cut: Cut | None = None
        """The newest with norms: with it a round that was settled meanwhile can be applied."""
        self._log = log
        self._go_back = False
        """What we hold will not get into the log."""
        self._drops = log.drops
        self._broken: type[LoadStage] | type[ApplyStage] | None = None
        """Which way of catching up broke last."""
        self._before: Held | None = None

    @property
    def serves(self) -> int:
        """The stage that we serve, or are about to; -1: none yet."""
        return self.stage if self.stage is not None else -1

    @property
    def ahead(self) -> bool:
        """Whether this is what came of a round that is not settled yet."""
        return self.held is not None and self.held[0] > self._log.round

    @property
    def behind(self) -> bool:
        """Whether this is neither what it should be, nor what may come of the open round."""
        held, log = self.held, self._log
        if held is None or self._go_back or held[1] != self.stage:
            return True
        if held[0] > log.round:
            return log.open is None or log.open.round != held[0]
        return held[0] < log.round or log.states_after(held[0])[held[1]] != held[2]

    @property
    def state(self) -> str:
        """Id of the run's newest settled state that this is a stage of, or empty."""
        held = self.held
        if held is None or self._go_back or held[1] != self.stage:
            return ""
        number = min(held[0], self._log.round)
        sound = self.ahead or self._log.states_after(number)[held[1]] == held[2]
        return self._log.state_after(number) if sound else ""

    # ------------------------------------------------------------------ what happened

    def loaded(self, message: HoldsStage) -> None:
        """The worker holds a snapshot; perhaps only an older one, from which the way goes on by applying."""
        self.held, self._go_back = (message.round, message.stage, message.state), False
        self._broken = LoadStage if message.round < self._log.round else None

    def applied(self, message: AppliedStage, *, counts: bool) -> None:
        """The worker holds what came of a round; `counts`: of just what the open round's cut is."""
        stage = self.held[1] if self.held is not None else self.serves
        self.held, self._broken = (message.round, stage, message.state), None
        if not counts and message.round > self._log.round:
            self._go_back = True

    def broke(self, effect: LoadStage | ApplyStage) -> None:
        """A way of catching up broke."""
        if isinstance(effect, LoadStage):
            self.held = self._before
        self._broken = type(effect)

    def lost(self) -> None:
        """The worker holds nothing any more."""
        self.held = None

    def give_way(self) -> None:
        """What we hold, or are about to, came of what does not count after all."""
        self._go_back = True

    def follow(self) -> None:
        """The log may have gone back."""
        if self._drops != self._log.drops:
            self._drops = self._log.drops
            self._go_back = self._go_back or self.ahead

    # ------------------------------------------------------------------ the way

    def catch_up(self) -> LoadStage | ApplyStage | None:
        """How to come to hold what we should."""
        log, stage = self._log, self.stage
        if stage is None:
            return None
        if (step := self._replay(stage)) is not None:
            return step
        self._before, self.held = self.held, None
        return LoadStage(round=log.round, stage=stage, state=log.states_after(log.round)[stage])

    def _replay(self, stage: int) -> ApplyStage | None:
        """Apply the next settled round, if we can; without norms only where loading broke."""
        held, log, cut = self.held, self._log, self.cut
        if held is None or self._go_back or held[0] >= log.round or held[1] != stage:
            return None
        settled = log.settled[held[0]]
        told = cut is not None and (cut.round, cut.receipts) == (settled.round, settled.staged)
        may = told or not settled.staged or self._broken is LoadStage
        if not may or self._broken is ApplyStage or log.states_after(held[0])[stage] != held[2]:
            return None
        norms = cut.norms if cut is not None and told else ()
        return ApplyStage(round=settled.round, stage=stage, receipts=settled.staged, norms=norms)

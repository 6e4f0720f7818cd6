"""Work ahead in a run's worker: training that starts before its round is open, and the update once it is.

IO: the run's worker and blobs.
"""

from __future__ import annotations

from peer.rounds.messages import Finish, TrainAhead, Trained, TrainedAhead
from peer.runs.worker import RunWorker


async def train(worker: RunWorker, effect: TrainAhead) -> TrainedAhead:
    """Train from the state before the round, moved by our own update; whatever the worker holds, it holds it still."""
    basis = effect.basis
    state, update = await worker.fetch(basis.state), await worker.fetch(basis.update)
    answer = await worker.use(
        worker.state or basis.state,
        "train",
        round=basis.round,
        start=basis.start,
        count=effect.quota,
        seconds=worker.run.plan.time_budget_s,
        ahead={"state": basis.state, "path": str(state), "update": str(update)},
        on_event=worker.progressed,
    )
    return TrainedAhead(round=basis.round, slots=int(answer["slots"]))


async def finish(worker: RunWorker, effect: Finish, account: str) -> Trained:
    """Write the update of what was trained ahead of the round that is open now.

    Raises:
        WorkerError: the worker that trained it is gone.
    """
    opened = effect.open
    settled = worker.run.log.settled_of(account)
    answer = await worker.use(opened.state, "finish", round=opened.round, settled=settled)
    return await worker.trained(opened.round, answer)

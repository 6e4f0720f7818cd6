"""What the tests of runs with stages build on: a plan of three stages with two replicas each, a log, receipts.

Pure: no clock; tests say what time it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from ledger.entries import Begin, StageOpen, StageReceipt, StageSeat, StageSettle, run_id
from ledger.stages import bitmap, run_state
from peer.rounds.log import RunLog
from peer.rounds.plan import Plan
from peer.stages.messages import Kind, Tag
from peer.stages.plan import StagePlan
from peer.stages.routing import Router
from peer.stages.serve import ReplicaMachine
from tests.peer.rounds_kit import blob, digest

STAGES = 3
SHARES = (300_000, 300_000, 400_000)
NETWORK = digest("network")
D1, D2, M1, M2, L1, L2 = (digest(f"account {name}") for name in ("d1", "d2", "m1", "m2", "l1", "l2"))
STAGE = {D1: 0, D2: 0, M1: 1, M2: 1, L1: 2, L2: 2}
GB = 10**9


def state(stage: int, round_number: int = 0) -> str:
    """Id of a stage's state."""
    return blob(f"state {stage} {round_number}")


def states(round_number: int = 0) -> tuple[str, ...]:
    """Ids of all stages' states."""
    return tuple(state(stage, round_number) for stage in range(STAGES))


S0, S1 = run_state(states(0)), run_state(states(1))
SPEC = {
    "version": 1, "name": "staged", "submitter": D1, "leaders": [D1], "price": 1000, "tokens_per_slot": 16,
    "slots_per_epoch": 1_000_000, "rounds": 3, "nonce": "ab" * 16, "config": {},
    "blobs": {"model": blob("m"), "tokenizer": blob("t"), "manifest": blob("f"), "state": S0},
    "stages": {"shares": list(SHARES), "states": list(states(0)), "microbatch": 2},
}  # fmt: skip
RUN = run_id(SPEC)  # type: ignore[arg-type]
PLAN = StagePlan(
    plan=Plan(
        network=NETWORK, run=RUN, rounds=3, quota=8, batch_size=2, tokens_per_slot=16, price=1000, min_members=1,
        max_members=8, evaluate_every=0, time_budget_s=10.0,
    ),
    replicas=1, microbatch=2, in_flight=2, shares=SHARES, needs_bytes=(2 * GB, 3 * GB, 31 * GB // 10),
)  # fmt: skip
OPEN = StageOpen(
    round=1,
    state=S0,
    roster=(
        StageSeat(D1, 0, 8, 0), StageSeat(D2, 8, 8, 0), StageSeat(M1, 0, 16, 1), StageSeat(M2, 0, 16, 1),
        StageSeat(L1, 0, 16, 2), StageSeat(L2, 0, 16, 2),
    ),
)  # fmt: skip
COUNT = 8
"""Microbatches of the round: 0 to 3 of the first driver, 4 to 7 of the second."""


def log_of(*entries: StageOpen | StageSettle | StageReceipt) -> RunLog:
    """A log that begins, and goes on with these."""
    log = RunLog()
    log.extend([Begin(spec=SPEC), *entries])  # type: ignore[arg-type]
    return log


def receipt(account: str, served: Iterable[int], name: str = "") -> StageReceipt:
    """A member's receipt for these microbatches of the first round."""
    inside = sorted(served)
    slots = 2 * len(inside)
    return StageReceipt(
        network=NETWORK, run=RUN, round=1, account=account, stage=STAGE[account], state_in=S0,
        update=blob(f"update {account} {inside} {name}"), slots=(0, slots), served=bitmap(inside, COUNT),  # type: ignore[arg-type]
        tokens=16 * slots, loss=0, leaves="ab" * 32, signature="00" * 64,
    )  # fmt: skip


def settle(first: int, receipts: int) -> StageSettle:
    """The settle of the first round, whose receipts begin at entry `first`."""
    return StageSettle(round=1, receipts=tuple(range(first, first + receipts)), states=states(1), state=S1)


def tag(stage: int, microbatch: int, kind: Kind = Kind.BACKWARD, **changes: object) -> Tag:
    """A request of the first round."""
    return Tag(**{"round": 1, "state": S0, "stage": stage, "microbatch": microbatch, "kind": kind, **changes})  # type: ignore[arg-type]


def replica(account: str, log: RunLog, **changes: object) -> ReplicaMachine:
    """A machine that holds the first state of its stage."""
    stage = STAGE[account]
    fields: dict[str, object] = {
        "account": account, "life": 1, "log": log, "plan": PLAN, "router": Router(random.Random(1)),
        "held": (0, stage, state(stage)), "memory_bytes": 8 * GB, **changes,
    }  # fmt: skip
    return ReplicaMachine(**fields)  # type: ignore[arg-type]

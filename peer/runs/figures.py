"""What a run's spec and its rounds say, in figures.

Pure: no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledger.entries import Stages
from ledger.receipt import AnyReceipt
from ledger.stages import stages_of
from p2p_llm_forge.settings import MOST_MEMBERS
from peer.errors import RunError
from peer.rounds.log import SettledRound
from peer.rounds.plan import Plan
from peer.stages.plan import StagePlan

UPDATE_HEAD_BYTES = 1 << 16
"""An update has at most one fp32 value for each that the state has, and a header."""


def telling(settled: SettledRound, stages: Stages | None) -> Sequence[AnyReceipt]:
    """The receipts that say the round's training loss: all, or of a model that is cut those of its last stage."""
    if stages is None:
        return settled.receipts
    return [receipt for receipt in settled.staged if receipt.stage == stages.last]


def weighted_loss(receipts: Sequence[AnyReceipt]) -> float | None:
    """Mean training loss of a round in nats a token, weighted by tokens; None without receipts."""
    tokens = sum(receipt.tokens for receipt in receipts)
    return sum(receipt.loss * receipt.tokens for receipt in receipts) / tokens / 1e6 if tokens else None


def plan_of(spec: dict[str, Any], *, run: str, network: str) -> Plan:
    """The figures that the round machines need, from a run's spec.

    Raises:
        RunError: the spec lacks one, or it is out of range.
    """
    try:
        config = spec["config"]
        training, members, evaluation = config["training"], config["members"], config["evaluation"]
        checkpoints = config.get("checkpoints", {})
        return Plan(
            network=network,
            run=run,
            rounds=int(spec["rounds"]),
            quota=int(training["inner_steps"]) * int(training["batch_size"]),
            batch_size=int(training["batch_size"]),
            tokens_per_slot=int(spec["tokens_per_slot"]),
            price=int(spec["price"]),
            min_members=int(members["min"]),
            max_members=min(int(members["max"]), MOST_MEMBERS),
            evaluate_every=int(evaluation["every"]),
            time_budget_s=float(training["time_budget_s"]),
            max_uncertified=int(training.get("max_uncertified_rounds", 2)),
            max_tokens=int(training.get("max_tokens", 0)),
            target_loss=round(float(training.get("target_loss", 0)) * 1e6),
            patience=int(evaluation.get("patience", 0)),
            keep_last=max(1, int(checkpoints.get("keep_last", 3))),
            checkpoint_every=max(0, int(checkpoints.get("every", 0))),
            clipped=str(training.get("clip_updates", "true")) != "false",
            overlap=training.get("overlap", "false") == "true",
            most_update_bytes=int(spec["blobs"]["state"].rpartition("-")[2]) + UPDATE_HEAD_BYTES,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise RunError("FP-405", f"spec of run {run[:16]}: {type(exc).__name__} {exc}") from exc


def stage_plan_of(spec: dict[str, Any], plan: Plan) -> StagePlan | None:
    """The figures that the machines of a run with stages need beside those; None where its model is not cut.

    Raises:
        RunError: the spec lacks one, or it is out of range.
    """
    stages = stages_of(spec)
    if stages is None:
        return None
    try:
        config = spec["config"]
        pipeline = config["experts"] if stages.experts else config["pipeline"]
        return StagePlan(
            plan=plan,
            replicas=int(pipeline["replicas"]),
            microbatch=stages.microbatch,
            in_flight=int(pipeline["in_flight"]),
            shares=stages.shares,
            experts=stages.experts,
            needs_bytes=tuple(map(int, spec["needs_bytes"])),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise RunError("FP-405", f"spec of run {plan.run[:16]}: pipeline: {type(exc).__name__} {exc}") from exc


def most_seats(plan: Plan, staged: StagePlan | None) -> int:
    """Of so many members a round can use up all slots: of a model that is cut, those that drive, at the most."""
    return plan.max_members if staged is None else plan.max_members - (staged.stages - 1) * staged.replicas

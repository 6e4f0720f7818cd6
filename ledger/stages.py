"""Runs whose model is cut into stages: what their spec says of it, and the entries of their rounds.

A replica holds one stage. The round's slots are cut into microbatches, numbered from its first slot on; a receipt says
as a bitmap which of them its member served in its stage. A group of experts counts as a stage, after all others.

Pure: no IO.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from . import codec, keys, merkle, values
from .codec import Json
from .receipt import AnyReceipt, Entry
from .values import Slots, StageSeat, Validation

CONTEXT = b"p2p-llm-forge/stage-receipt/v1\n"
"""What a stage receipt's signature covers before its body."""
MAX_STAGES = 128
"""The most stages of a run, groups of experts among them."""
WHOLE = 10**6
"""The shares of all stages together: parts per million of what the whole model earns."""
_SPEC_KEYS = {"shares", "states", "microbatch"}
_is_bitmap = re.compile(r"0*[1-9a-f][0-9a-f]*").fullmatch


@dataclass(frozen=True, kw_only=True)
class Stages:
    """How a run's model is cut, as its spec says in `stages`."""

    shares: tuple[int, ...]
    """Of each stage: its part of the whole model's price, in parts per million."""
    states: tuple[str, ...]
    """The id of each stage's initial state."""
    microbatch: int
    """Slots of a microbatch."""
    experts: int
    """So many stages, the last ones, are groups of experts: what nobody serves of them is left out of the model."""

    @property
    def last(self) -> int:
        """The last stage that is no group of experts: the one that knows the loss."""
        return len(self.shares) - self.experts - 1


def stages_of(spec: Mapping[str, Json]) -> Stages | None:
    """How the model of a run with this spec, which was checked, is cut; None where it is not."""
    if "stages" not in spec:
        return None
    stages = cast("Mapping[str, list[int]]", spec["stages"])
    return Stages(
        shares=tuple(stages["shares"]), states=tuple(map(str, stages["states"])),
        microbatch=cast(int, stages["microbatch"]), experts=cast(int, stages.get("experts", 0)),
    )  # fmt: skip


def check_stages(stages: object, state: str) -> None:
    """Check a spec's `stages`; `state` is the run's initial state.

    Raises:
        EntryInvalid: a field is missing, unknown, or not what it must be.
    """
    if type(stages) is not dict or stages.keys() - {"experts"} != _SPEC_KEYS:
        got = ", ".join(map(str, stages)) if type(stages) is dict else stages
        raise values.fail("spec.stages", got, "an object with microbatch, shares, states and at most experts")
    shares = cast("tuple[int, ...]", values.array("spec.stages.shares", stages["shares"]))
    for share in shares:
        values.integer("spec.stages.shares", share, 1)
    if sum(shares) != WHOLE or len(shares) > MAX_STAGES:
        got = f"{len(shares)} shares, {sum(shares)} together"
        raise values.fail("spec.stages.shares", got, f"1..{MAX_STAGES}, {WHOLE} together")
    check_states("spec.stages.states", stages["states"], state)
    values.same("spec.stages.states", f"{len(stages['states'])} states", f"{len(shares)} states")
    values.integer("spec.stages.microbatch", stages["microbatch"], 1)
    values.integer("spec.stages.experts", stages.get("experts", 0))
    if stages.get("experts", 0) >= len(shares):
        raise values.fail("spec.stages.experts", stages["experts"], f"below {len(shares)}, the number of stages")


def run_state(states: Iterable[str]) -> str:
    """The id of a run's state: the Merkle root over the ids of its stages' states, and their bytes together."""
    ids = tuple(states)
    root = merkle.root(merkle.leaf_hash(state.encode()) for state in ids)
    return f"{root.hex()}-{sum(int(state.rpartition('-')[2]) for state in ids)}"


def check_states(rule: str, states: object, state: str) -> tuple[str, ...]:
    """Check the ids of the states of all stages, and that the run's state is what they give; returns them."""
    ids = cast("tuple[str, ...]", values.array(rule, states))
    if not ids:
        raise values.fail(rule, "empty", "the id of each stage's state")
    for one in ids:
        values.blob_id(rule, one)
    values.same("state", state, run_state(ids))
    return ids


def worth(tokens: int, price: int, share: int = WHOLE) -> int:
    """What so many tokens earn a stage with this share of the whole model's price, in micro-credits, rounded down."""
    return tokens * price * share // (10**6 * WHOLE)


def bitmap(microbatches: Iterable[int], count: int) -> str:
    """These microbatches out of a round's `count`, as a receipt says which were served."""
    return f"{sum(1 << number for number in set(microbatches)):0{digits(count)}x}"


def digits(count: int) -> int:
    """The hex digits of a bitmap of so many microbatches."""
    return -(-count // 4)


def lowest(bits: int) -> int:
    """The first microbatch of a bitmap that is not empty."""
    return (bits & -bits).bit_length() - 1


@dataclass(frozen=True, kw_only=True)
class StageOpen(Entry):
    """Start a round of a run with stages: who takes part, in which stage, on which slots, from which state."""

    type: ClassVar[str] = "stage_open"
    round: int
    """One more than the last settled; the first is 1."""
    state: str
    """The id of the run's state that the members train from."""
    roster: tuple[StageSeat, ...]
    """Each member's account, first slot, number of slots and stage; those of stage 0 drive the round."""

    def __post_init__(self) -> None:
        values.integer("round", self.round, 1)
        values.blob_id("state", self.state)
        seats = values.array("roster", self.roster)
        for number, seat in enumerate(seats):
            account, slot_start, quota, stage = values.array(f"roster[{number}]", seat, (4,))
            values.account(f"roster[{number}] account", account)
            values.integer(f"roster[{number}] slot_start", slot_start)
            values.integer(f"roster[{number}] quota", quota, 1)
            values.integer(f"roster[{number}] stage", stage)
        object.__setattr__(self, "roster", tuple(StageSeat(*cast("StageSeat", seat)) for seat in seats))
        if not self.drivers:
            raise values.fail("roster", f"{len(seats)} seats, none of stage 0", "at least one driver")

    @property
    def drivers(self) -> list[StageSeat]:
        """The seats of stage 0 in the order of their slots."""
        return sorted((seat for seat in self.roster if seat.stage == 0), key=lambda seat: seat.slot_start)

    @property
    def slots(self) -> Slots:
        """The round's slots, which its drivers have."""
        drivers = self.drivers
        return Slots(drivers[0].slot_start, sum(seat.quota for seat in drivers))


@dataclass(frozen=True, kw_only=True)
class StageReceipt(AnyReceipt):
    """A member's signed statement of its update of a stage, and which microbatches are in it."""

    type: ClassVar[str] = "stage_receipt"
    context: ClassVar[bytes] = CONTEXT
    stage: int
    """The stage that the update covers; `slots` is the round's first and how many were served in this stage."""
    served: str
    """The microbatches served: bit j of this hex number is microbatch j; a digit for every four of the round."""

    def __post_init__(self) -> None:
        values.digest("network", self.network)
        values.digest("run", self.run)
        values.integer("round", self.round, 1)
        values.account("account", self.account)
        values.integer("stage", self.stage)
        values.blob_id("state_in", self.state_in)
        values.blob_id("update", self.update)
        start, count = values.array("slots", self.slots, (2,))
        values.integer("slots start", start)
        values.integer("slots count", count, 1)
        object.__setattr__(self, "slots", Slots(cast(int, start), cast(int, count)))
        if type(self.served) is not str or not _is_bitmap(self.served):
            raise values.fail("served", self.served, "lowercase hex digits, not all 0")
        values.integer("tokens", self.tokens, 1)
        values.integer("loss", self.loss)
        values.digest("leaves", self.leaves)
        if type(self.signature) is not str or not values.is_signature(self.signature):
            raise values.fail("signature", self.signature, "128 lowercase hex digits")

    @property
    def bits(self) -> int:
        """The microbatches served: bit j is microbatch j."""
        return int(self.served, 16)

    @classmethod
    def create(
        cls,
        *,
        network: str,
        run: str,
        round: int,
        stage: int,
        state_in: str,
        update: str,
        slots: tuple[int, int],
        served: str,
        tokens: int,
        loss: int,
        leaves: str,
        key: keys.PrivateKey,
    ) -> "StageReceipt":
        """The receipt with these contents, signed by `key`, whose account it is."""
        body: dict[str, Json] = {
            "account": key.public, "leaves": leaves, "loss": loss, "network": network, "round": round, "run": run,
            "served": served, "slots": list(slots), "stage": stage, "state_in": state_in, "tokens": tokens,
            "type": cls.type, "update": update,
        }  # fmt: skip
        return cls.from_json({**body, "signature": key.sign(CONTEXT + codec.encode(body)).hex()})


@dataclass(frozen=True, kw_only=True)
class StageSettle(Entry):
    """End a round of a run with stages: these receipts count, and these states came of them."""

    type: ClassVar[str] = "stage_settle"
    round: int
    """The open round."""
    receipts: tuple[int, ...]
    """Indices of the receipts, ascending."""
    states: tuple[str, ...]
    """The id of each stage's state after the round."""
    state: str
    """The id of the run's state after the round, which follows from those."""
    validation: Validation | tuple[()] = ()
    """A held-out loss, where one was measured."""

    def __post_init__(self) -> None:
        values.integer("round", self.round, 1)
        object.__setattr__(self, "receipts", values.ascending("receipts", self.receipts))
        values.blob_id("state", self.state)
        object.__setattr__(self, "states", check_states("states", self.states, self.state))
        object.__setattr__(self, "validation", values.validation("validation", self.validation))

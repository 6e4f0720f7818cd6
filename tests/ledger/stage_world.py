"""A small run with stages to test on: three stages, two members in each, and receipts that say who served what.

Pure: no IO.
"""

from collections.abc import Iterable, Sequence

from ledger.codec import Json
from ledger.entries import Begin, Close, Entry, Recv, Send, StageOpen, StageReceipt, StageSeat, StageSettle, run_id
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.stages import bitmap, run_state

from . import world
from .world import blob, key_of, root_of

MICROBATCH, SLOTS, COUNT = 2, 12, 6
"""Slots of a microbatch; slots and microbatches of a round."""
SHARES = (250_000, 350_000, 400_000)
DRIVERS, MIDDLE, ENDS = ([key_of(f"{name} {number}") for number in range(2)] for name in ("driver", "middle", "end"))
STAGE = {key.public: stage for stage, keys in enumerate((DRIVERS, MIDDLE, ENDS)) for key in keys}
SERVED: dict[int, dict[PrivateKey, tuple[int, ...]]] = {
    1: {
        DRIVERS[0]: (0, 1, 2, 3), DRIVERS[1]: (4, 5), MIDDLE[0]: (0, 2, 4), MIDDLE[1]: (1, 3, 5),
        ENDS[0]: (0, 1, 2, 3, 4, 5),
    },
    2: {DRIVERS[0]: (0, 1, 2, 3), MIDDLE[0]: (0, 1), MIDDLE[1]: (2, 3), ENDS[0]: (1, 3), ENDS[1]: (0, 2)},
}  # fmt: skip
"""By round: who served which microbatches; the second driver of the second round died."""


def states(round_: int) -> tuple[str, ...]:
    """The ids of the stages' states after a round."""
    return tuple(blob(f"stage {stage} after {round_}") for stage in range(len(SHARES)))


def spec_of(**changes: Json) -> dict[str, Json]:
    """The spec of a run with stages; changes are those of its `stages`."""
    blobs: dict[str, Json] = {name: blob(name) for name in ("model", "tokenizer", "manifest")}
    stages: dict[str, Json] = {"shares": list(SHARES), "states": list(states(0)), "microbatch": MICROBATCH, **changes}
    kept = {name: value for name, value in stages.items() if value != ()}
    return world.spec_of(name="staged", price=7777, blobs={**blobs, "state": run_state(states(0))}, stages=kept)


SPEC = spec_of()
RUN = run_id(SPEC)


def opened(round_: int, **changes: object) -> StageOpen:
    """The open of a round: eight slots for the first driver, four for the second, all for everybody else."""
    start = SLOTS * (round_ - 1)
    seats = [StageSeat(DRIVERS[0].public, start, 8, 0), StageSeat(DRIVERS[1].public, start + 8, 4, 0)]
    for stage, keys in ((1, MIDDLE), (2, ENDS)):
        seats += [StageSeat(key.public, start, SLOTS, stage) for key in keys]
    body: dict[str, object] = {
        "round": round_, "state": run_state(states(round_ - 1)), "roster": tuple(seats), **changes,
    }  # fmt: skip
    return StageOpen(**body)  # type: ignore[arg-type]


def receipt(key: PrivateKey, round_: int, microbatches: Iterable[int], **changes: object) -> StageReceipt:
    """A member's receipt for these microbatches of a round."""
    served, stage = set(microbatches), STAGE.get(key.public, 1)
    slots = MICROBATCH * len(served)
    body: dict[str, object] = {
        "network": world.GENESIS.id, "run": RUN, "round": round_, "stage": stage,
        "state_in": run_state(states(round_ - 1)), "update": blob(f"{key.public}{round_}"),
        "slots": (SLOTS * (round_ - 1), slots), "served": bitmap(served, COUNT), "tokens": slots * 1000,
        "loss": 3_000_000 if stage == len(SHARES) - 1 else 0, "leaves": "ab" * 32, "key": key, **changes,
    }  # fmt: skip
    return StageReceipt.create(**body)  # type: ignore[arg-type]


def settled(round_: int, receipts: Sequence[int], **changes: object) -> StageSettle:
    """The settle of a round."""
    after = states(round_)
    body: dict[str, object] = {
        "round": round_, "receipts": tuple(receipts), "states": after, "state": run_state(after), "validation": (),
        **changes,
    }  # fmt: skip
    return StageSettle(**body)  # type: ignore[arg-type]


def round_of(round_: int, first: int, genesis: Genesis = world.GENESIS) -> list[Entry]:
    """A round in which everybody did as in `SERVED`; `first` is the index of its first entry."""
    given = [receipt(key, round_, done, network=genesis.id) for key, done in SERVED[round_].items()]
    return [opened(round_), *given, settled(round_, range(first + 1, first + 1 + len(given)))]


def fund(amount: int = 10**6) -> list[Entry]:
    """Alice's log: she funds the run."""
    return [Send(to=f"run/{RUN}", amount=amount, memo="fund")]


def run_log(
    rounds: int = 2, *, close: bool = False, funding: Sequence[Entry] | None = None, genesis: Genesis = world.GENESIS,
    funder: PrivateKey = world.ALICE,
) -> list[Entry]:  # fmt: skip
    """The run's log."""
    funding = fund() if funding is None else funding
    origin = genesis.origin(funder.public)
    claim = Recv(origin=origin, index=len(funding) - 1, size=len(funding), root=root_of(funding))
    log: list[Entry] = [Begin(spec=SPEC), claim]
    for round_ in range(1, rounds + 1):
        log += round_of(round_, len(log), genesis)
    return [*log, Close(state=run_state(states(rounds)), reason="done")] if close else log

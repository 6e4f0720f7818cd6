"""A small network to test on: keys, a genesis, a run with receipts, a witness.

Pure: no IO beyond the store it is asked to fill.
"""

from collections.abc import Sequence
from hashlib import sha256

from ledger import entries, merkle, notes
from ledger.codec import Json
from ledger.entries import Begin, Close, Entry, Open, Receipt, Recv, Seat, Send, Settle
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.store.store import Store
from ledger.witness import Witness

NOW = 1_700_000_000


def key_of(name: str) -> PrivateKey:
    """The same key for the same name, always."""
    return PrivateKey(sha256(name.encode()).digest())


ALICE, BOB, CAROL, WITNESS = (key_of(name) for name in ("alice", "bob", "carol", "witness"))
GENESIS = Genesis.create(
    name="test", supply={ALICE.public: 10**9, CAROL.public: 10**6}, witnesses=[("witness", WITNESS.public)],
    issuers={BOB.public: 1000},
)  # fmt: skip
ALICE_LOG, BOB_LOG = GENESIS.origin(ALICE.public), GENESIS.origin(BOB.public)


def blob(name: object) -> str:
    """A blob id."""
    return sha256(str(name).encode()).hexdigest() + "-1000"


def spec_of(**changes: Json) -> dict[str, Json]:
    """A run's spec, led by Alice, with fields changed."""
    blobs: dict[str, Json] = {name: blob(name) for name in ("model", "tokenizer", "manifest", "state")}
    return {
        "version": 1, "name": "tiny", "submitter": ALICE.public, "leaders": [ALICE.public], "price": 1000,
        "tokens_per_slot": 1000, "slots_per_epoch": 100, "rounds": 3, "nonce": "0" * 32, "config": {}, "blobs": blobs,
        **changes,
    }  # fmt: skip


SPEC = spec_of()
RUN = entries.run_id(SPEC)
RUN_LOG = GENESIS.run_origin(RUN)


def root_of(log: Sequence[Entry | bytes], size: int | None = None) -> str:
    """The root in hex, as a recv names it."""
    data = [entry.encode() if isinstance(entry, Entry) else entry for entry in log[:size]]
    return merkle.root([merkle.leaf_hash(item) for item in data]).hex()


def recv_of(origin: str, log: Sequence[Entry | bytes], index: int | None = None) -> Recv:
    """The claim on all of a log as it stands."""
    return Recv(origin=origin, index=len(log) - 1 if index is None else index, size=len(log), root=root_of(log))


def receipt_of(key: PrivateKey, round_: int, state: str, start: int, count: int, **changes: object) -> Receipt:
    """A member's receipt for a round of the run."""
    body: dict[str, object] = {
        "network": GENESIS.id, "run": RUN, "round": round_, "state_in": state, "update": blob(f"{key.public}{round_}"),
        "tokens": count * 1000, "slots": (start, count), "loss": 3_000_000, "steps": 5, "leaves": "ab" * 32, "key": key,
        **changes,
    }  # fmt: skip
    return Receipt.create(**body)  # type: ignore[arg-type]


def fund(amount: int = 10**6) -> list[Entry]:
    """Alice's log: she funds the run."""
    return [Send(to=f"run/{RUN}", amount=amount, memo="fund")]


def run_log(rounds: int = 2, close: bool = False, funding: Sequence[Entry] | None = None) -> list[Entry]:
    """A run in which Alice and Bob do all their slots every round."""
    log: list[Entry] = [Begin(spec=SPEC), recv_of(ALICE_LOG, fund() if funding is None else funding)]
    state = blob("state")
    for round_ in range(1, rounds + 1):
        start = (round_ - 1) * 20
        roster = (Seat(ALICE.public, start, 10), Seat(BOB.public, start + 10, 10))
        log.append(Open(round=round_, state=state, roster=roster))
        first = len(log)
        log.append(receipt_of(ALICE, round_, state, start, 10))
        log.append(receipt_of(BOB, round_, state, start + 10, 8))
        state = blob(f"after {round_}")
        log.append(Settle(round=round_, receipts=(first, first + 1), state=state, validation=()))
    return [*log, Close(state=state, reason="done")] if close else log


def certify(store: Store, origin: str) -> bytes:
    """Have the witness of the network cosign the newest head; the certificate."""
    head = store.head(origin)
    assert head is not None
    line = Witness(store, GENESIS, WITNESS, "witness").cosign(origin, store.size(origin), [], head, NOW)
    certificate = notes.combine(head, [line])
    store.certify(origin, certificate)
    return certificate


def fill(store: Store, rounds: int = 2, close: bool = False) -> None:
    """A store with Alice's funding and a certified run."""
    for origin, log in ((ALICE_LOG, fund()), (RUN_LOG, run_log(rounds, close))):
        store.append(origin, log, ALICE)
        certify(store, origin)

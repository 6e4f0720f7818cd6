"""A small certified ledger with four witnesses, and the means to tamper with a copy of it.

Three accounts with supply, an issuer, two members, a run with a co-funder, two settled rounds and an open one, and a
run with stages that got as far. The file under test is that of witness w0: it holds entries, heads, certificates and
promises, and Bob's last send, which is not certified.

IO: SQLite files where it is told to.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ledger import notes
from ledger.entries import Begin, Entry, Issue, Open, Recv, Seat, Send, Settle, run_id
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Store
from ledger.verify.report import Fault, Report
from ledger.verify.verify import verify_store
from ledger.witness import Witness
from tests.ledger import stage_world
from tests.ledger.world import NOW, blob, key_of, receipt_of, root_of, spec_of

ALICE, BOB, CAROL, DAVE, ERIN, MALLORY = (key_of(name) for name in ("alice", "bob", "carol", "dave", "erin", "mallory"))
WITNESSES = {f"w{number}": key_of(f"w{number}") for number in range(4)}
QUORUM = ("w0", "w1", "w2")
GENESIS = Genesis.create(
    name="tamper", supply={ALICE.public: 10**9, CAROL.public: 1000, ERIN.public: 5000},
    witnesses=[(name, key.public) for name, key in WITNESSES.items()], issuers={DAVE.public: 1000},
)  # fmt: skip
SUPPLY = sum(amount for _, amount in GENESIS.supply)
ALICE_LOG, BOB_LOG, CAROL_LOG, DAVE_LOG, ERIN_LOG, MALLORY_LOG = (
    GENESIS.origin(key.public) for key in (ALICE, BOB, CAROL, DAVE, ERIN, MALLORY)
)
SPEC = spec_of(leaders=[ALICE.public, DAVE.public])
RUN = run_id(SPEC)
RUN_LOG = GENESIS.run_origin(RUN)
STAGED_LOG = GENESIS.run_origin(stage_world.RUN)


def claim(origin: str, log: Sequence[Entry | bytes], index: int | None = None, size: int | None = None) -> Recv:
    """A recv of what a log owes up to an index (its last), by its root at a size (all of it)."""
    size = len(log) if size is None else size
    return Recv(origin=origin, index=size - 1 if index is None else index, size=size, root=root_of(log, size))


def receipt(key: PrivateKey, round_: int, start: int, count: int, **changes: object) -> Entry:
    """A member's receipt in the run, with fields changed."""
    state = changes.pop("state", blob("state" if round_ == 1 else f"after {round_ - 1}"))
    here = {"network": GENESIS.id, "run": RUN, **changes}
    return receipt_of(key, round_, str(state), start, count, **here)


def opened(round_: int) -> Open:
    """The run's open of a round: ten slots for Alice, ten for Bob."""
    start = 20 * (round_ - 1)
    roster = (Seat(ALICE.public, start, 10), Seat(BOB.public, start + 10, 10))
    return Open(round=round_, state=blob("state" if round_ == 1 else f"after {round_ - 1}"), roster=roster)


def settled(round_: int, *receipts: int) -> Settle:
    """The run's settle of a round."""
    return Settle(round=round_, receipts=receipts, state=blob(f"after {round_}"), validation=())


def _logs() -> dict[str, list[Entry]]:
    alice: list[Entry] = [Send(to=BOB.public, amount=500, memo="hello"), Send(to=f"run/{RUN}", amount=10**6)]
    dave: list[Entry] = [Issue(to=CAROL.public, amount=400), Issue(to=BOB.public, amount=100)]
    carol: list[Entry] = [claim(DAVE_LOG, dave), Send(to=f"run/{RUN}", amount=200)]
    run: list[Entry] = [Begin(spec=SPEC), claim(ALICE_LOG, alice), claim(CAROL_LOG, carol)]
    for round_ in (1, 2):
        start, first = 20 * (round_ - 1), len(run) + 1
        run += [opened(round_), receipt(ALICE, round_, start, 10), receipt(BOB, round_, start + 10, 8)]
        run.append(settled(round_, first, first + 1))
    run += [opened(3), receipt(BOB, 3, 50, 4)]
    erin = stage_world.fund(5000)
    staged = stage_world.run_log(2, funding=erin, genesis=GENESIS, funder=ERIN)
    staged.append(stage_world.opened(3))
    staged += [
        stage_world.receipt(keys[0], 3, (0, 1), network=GENESIS.id)
        for keys in (stage_world.DRIVERS, stage_world.MIDDLE)
    ]
    bob: list[Entry] = [claim(ALICE_LOG, alice), claim(RUN_LOG, run), Send(to=CAROL.public, amount=50)]
    alice.append(claim(RUN_LOG, run))
    logs = {ALICE_LOG: alice, DAVE_LOG: dave, CAROL_LOG: carol, RUN_LOG: run, BOB_LOG: bob}
    return {**logs, ERIN_LOG: erin, STAGED_LOG: staged}


LOGS: dict[str, list[Entry]] = _logs()
"""The certified entries."""
TAIL = Send(to=ALICE.public, amount=5)
"""Bob's entry that no quorum has seen."""
WRITERS = {
    ALICE_LOG: ALICE, BOB_LOG: BOB, CAROL_LOG: CAROL, DAVE_LOG: DAVE, ERIN_LOG: ERIN, RUN_LOG: ALICE, STAGED_LOG: ALICE,
    MALLORY_LOG: MALLORY,
}  # fmt: skip
END = len(LOGS[RUN_LOG])
"""Where the run's log goes on: its third round is open, Bob's receipt is in."""
DATA = {origin: [entry.encode() for entry in log] for origin, log in LOGS.items()}
"""Their bytes."""


def head(origin: str, log: Sequence[Entry | bytes], key: PrivateKey | None = None, size: int | None = None) -> bytes:
    """A head over these entries, signed by the log's own writer or by `key`."""
    size = len(log) if size is None else size
    place = Checkpoint(origin=origin, size=size, root=bytes.fromhex(root_of(log, size)))
    return notes.sign_head(place, key or WRITERS[origin])


def cosigned(note: bytes, names: Iterable[str] = QUORUM) -> bytes:
    """The note with cosignatures of these witnesses, who did not look at what it covers."""
    return notes.combine(note, [notes.cosign(note, name, WITNESSES[name], NOW) for name in names])


def certificate(origin: str, log: Sequence[Entry | bytes], names: Iterable[str] = QUORUM) -> bytes:
    """A certificate over these entries by witnesses who did not look."""
    return cosigned(head(origin, log), names)


def data_of(log: Sequence[Entry | bytes]) -> list[bytes]:
    """The bytes of entries."""
    return [entry if isinstance(entry, bytes) else entry.encode() for entry in log]


def build(folder: Path) -> Path:
    """The certified ledger, as four witnesses made it; the file is that of w0."""
    with ExitStack() as stack:
        stores = {
            name: stack.enter_context(Store.open(folder / f"{name}.db", GENESIS, create=True)) for name in WITNESSES
        }
        own = stack.enter_context(Store.open(folder / "own.db", GENESIS, create=True))
        witnesses = [Witness(stores[name], GENESIS, key, name) for name, key in WITNESSES.items()]
        for origin, data in DATA.items():
            note = own.append(origin, data, WRITERS[origin])
            lines = [witness.cosign(origin, 0, data, note, NOW) for witness in witnesses]
            whole = notes.combine(note, lines if origin == CAROL_LOG else lines[:3])
            for store in (own, *stores.values()):
                store.accept(origin, 0, data, whole)
        note = own.append(BOB_LOG, [TAIL], BOB)
        witnesses[0].cosign(BOB_LOG, len(DATA[BOB_LOG]), [TAIL.encode()], note, NOW)
    return folder / "w0.db"


class Ledger:
    """A copy of the certified ledger's file, open to everybody who has a pen."""

    def __init__(self, sound: Path, path: Path) -> None:
        self.path = Path(shutil.copy(sound, path))

    def sql(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Change or read the file behind the program's back."""
        return self.all((query, values))

    def all(self, *steps: tuple[str, tuple[object, ...]]) -> list[tuple[object, ...]]:
        """Several changes; the rows of the last."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = OFF")
            rows: list[tuple[object, ...]] = []
            for query, values in steps:
                rows = connection.execute(query, values).fetchall()
            return rows
        finally:
            connection.close()

    def row(self, origin: str) -> int:
        """The log's number in the file."""
        return int(str(self.sql("SELECT id FROM log WHERE origin = ?", origin)[0][0]))

    def set(self, origin: str, index: int, data: bytes, *, leaf: bytes | None = None) -> None:
        """Replace one entry's bytes, and its stored hash where one is given."""
        row = self.row(origin)
        self.sql("UPDATE entry SET data = ? WHERE log = ? AND idx = ?", data, row, index)
        if leaf is not None:
            self.sql("UPDATE entry SET leaf = ? WHERE log = ? AND idx = ?", leaf, row, index)

    def note(self, origin: str, table: str = "certificate") -> bytes:
        """A stored note."""
        rows = self.sql(f"SELECT note FROM {table} WHERE log = ?", self.row(origin))
        assert isinstance(rows[0][0], bytes)
        return rows[0][0]

    def set_note(self, origin: str, note: bytes, table: str = "certificate") -> None:
        """Replace a stored note alone."""
        self.sql(f"UPDATE {table} SET note = ? WHERE log = ?", note, self.row(origin))

    def write(self, origin: str, log: Sequence[Entry | bytes]) -> None:
        """Put these entries, rightly hashed, in place of the log's, under the old heads."""
        self.sql("INSERT OR IGNORE INTO log (origin) VALUES (?)", origin)
        row = self.row(origin)
        insert = "INSERT INTO entry (log, idx, leaf, data) VALUES (?, ?, ?, ?)"
        rows = [(insert, (row, index, leaf_hash(data), data)) for index, data in enumerate(data_of(log))]
        self.all(("DELETE FROM entry WHERE log = ?", (row,)), *rows)

    def forge(self, origin: str, log: Sequence[Entry | bytes], note: bytes | None = None) -> None:
        """The same, with owner and a quorum of witnesses in on it: they sign whatever it is."""
        self.write(origin, log)
        row, data = self.row(origin), data_of(log)
        root = Tree(map(leaf_hash, data)).root()
        note = certificate(origin, data) if note is None else note
        self.sql("DELETE FROM promise WHERE log = ?", row)
        for table in ("head", "certificate"):
            values = (row, len(data), root, note)
            self.sql(f"INSERT OR REPLACE INTO {table} (log, size, root, note) VALUES (?, ?, ?, ?)", *values)

    def report(self, since: Mapping[str, bytes] | None = None) -> Report:
        """What the verifier finds, with or without certificates of an earlier verification."""
        return verify_store(self.path, GENESIS, since=since)

    def fault(self, since: Mapping[str, bytes] | None = None) -> Fault:
        """The one fault that the verifier finds; nothing is proven then."""
        report = self.report(since)
        assert not report.ok
        assert report.proven == ()
        [fault] = report.faults
        assert fault.rule in str(fault)
        return fault

    def sound(self) -> Report:
        """The verifier's report, in which there is no fault."""
        report = self.report()
        assert report.faults == ()
        assert report.ok
        return report

    def void(self) -> tuple[str, int, str]:
        """(log, entry, rule) of the one entry without effect in a ledger that is sound as such."""
        [void] = self.sound().ledger.voids
        return void.origin, void.index, void.rule

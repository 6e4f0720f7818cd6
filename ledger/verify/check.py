"""Checks one log of a store from its bytes, some rows at a time: entries, hashes, heads, and what an earlier
verification certified. What the entries do to money comes out as effects, for a fold that needs no other bytes.

A log is read in the one snapshot of its database connection. Only entries below `Task.certified` have effects.

IO: reads through the database it is given.
"""

from collections.abc import Iterator, Sequence

from ledger import notes
from ledger.entries import parse
from ledger.errors import CodecInvalid, EntryInvalid, LedgerError, NoteInvalid
from ledger.fold.effects import Collected, LogReader
from ledger.genesis import Genesis
from ledger.merkle import Frontier, leaf_hash
from ledger.notes import Checkpoint
from ledger.receipt import AnyReceipt, check_signature
from ledger.rules import RunRules, rules_of
from ledger.store.database import HEADS, Database, HeadRow

from .report import Fault, describe_damaged
from .tasks import Checked, Part, Task

MIN_STEP, MAX_STEP, STEPS = 128, 512, 32
"""Rows read at once, at most 8 MiB, and in how many steps a log is read between these bounds."""
_END = 2**63 - 1


class LogCheck:
    """The check of one log; `step` until `done`, then `checked`."""

    def __init__(self, database: Database, genesis: Genesis, task: Task) -> None:
        self._db, self._genesis, self._task = database, genesis, task
        self.done = False
        self.read = 0
        """Rows read so far."""
        self._fault: Fault | None = None
        self._disproved = False
        self._receipts = 0
        self._certificate = ""
        self._frontier = Frontier()
        self._heads = {table: row for table in HEADS if (row := database.head(table, task.row)) is not None}
        self._since = notes.checkpoint(notes.parse(task.since.encode())) if task.since else None
        marks = {row.size for row in self._heads.values()} | {task.certified, self._since.size if self._since else 0}
        self._marks = sorted(marks, reverse=True)
        self._asked = 0
        """How many of the asked sizes are reached."""
        self._next = self._next_mark(0)
        self._roots: dict[int, bytes] = {}
        """Roots at the sizes of heads."""
        try:
            self._reader = LogReader(rules_of(genesis.terms, task.origin))
        except EntryInvalid as exc:
            self._fault = self._found(None, exc.rule, exc.got, exc.wanted)
            self.done = True

    def step(self) -> Part:
        """Check the next rows."""
        task, reader, since, certified = self._task, self._reader, self._since, self._task.certified
        size = before = self._frontier.size
        end = before + max(MIN_STEP, min(MAX_STEP, task.entries // STEPS))
        known = since is not None and before < since.size
        if since is not None and known:
            end = min(end, since.size)
        reader.rules.signatures = not known
        if isinstance(reader.rules, RunRules):
            reader.rules.deferred = None if known else []
        collected = Collected()
        rows = self._db.entries(task.row, before, end) or self._later(before)
        for index, leaf, data in rows:
            if index != size or leaf_hash(data) != leaf:
                break
            try:
                entry = parse(data)
                if size < certified:
                    reader.collect(entry, collected)
                else:
                    reader.effect(entry)
            except LedgerError:  # nothing changed; the same again finds it
                break
            if isinstance(entry, AnyReceipt):
                self._receipts += 1
            size += 1
        refused = rows[size - before : size - before + 1]
        part = Part(number=task.number, rows=size - before + len(refused), size=0)
        size = self._forged(size)  # all that is told ends before a receipt with a bad signature
        self._grow(part, [leaf for _, leaf, _ in rows[: size - before]])
        if refused and self._fault is None:
            self._fault = self._refused(*refused[0])
        self.read += part.rows
        self.done = self._fault is not None or (size < end and not self._later(size))
        if self.done:
            self._end()
        part.size = min(size, certified)
        part.effects = [effect for effect in collected.effects if effect.entry < part.size]
        return part

    def _grow(self, part: Part, leaves: Sequence[bytes]) -> None:
        """Put these hashes under the root, and note it at the sizes where it matters."""
        frontier, before, end = self._frontier, self._frontier.size, self._frontier.size + len(leaves)
        while self._next <= end:
            frontier.extend(leaves[frontier.size - before : self._next - before])
            self._mark(part)
        frontier.extend(leaves[frontier.size - before :])

    def _forged(self, size: int) -> int:
        """Check the signatures of the receipts just read, quicker together; the first bad one, or `size`."""
        rules = self._reader.rules
        if not isinstance(rules, RunRules) or not rules.deferred:
            return size
        receipts, rules.deferred = rules.deferred, []
        for place, (index, receipt) in enumerate(receipts):
            try:
                check_signature(receipt)
            except EntryInvalid as exc:
                self._receipts -= len(receipts) - place
                self._fault = self._found(index, exc.rule, exc.got, exc.wanted, receipt.encode())
                return index
        return size

    def _later(self, size: int) -> list[tuple[int, bytes, bytes]]:
        """The first stored row that is out of place, if there is one."""
        for start, end in ((size, _END), (-_END, 0)):
            for row in each_row(self._db, self._task.row, start, end):
                return [row]
        return []

    def _refused(self, index: int, leaf: bytes, data: bytes) -> Fault:
        """Why this row cannot be the next entry; what lies before it stays to be checked."""
        size, rules, broken = self._frontier.size, self._reader.rules, None
        if index > size:
            return self._found(size, "entry", "missing", f"one before entry {index}")
        if index < size:
            return self._found(size if index >= 0 else None, "entry", f"another one at {index}", f"one at {size}")
        deferred = rules.deferred if isinstance(rules, RunRules) else None
        try:
            if isinstance(rules, RunRules):
                rules.deferred = None  # this one at once
            self._reader.effect(parse(data))
        except CodecInvalid as exc:
            broken = EntryInvalid(rule="encoding", got=exc.message, wanted="canonical bytes", index=index)
        except EntryInvalid as exc:
            broken = exc
        if isinstance(rules, RunRules):
            rules.deferred = deferred
        hashed = leaf_hash(data)
        if hashed != leaf:
            further = [f"{broken.rule} is {broken.got}, wanted {broken.wanted}"] if broken else []
            return self._found(index, "leaf hash", hashed.hex(), leaf.hex(), data, further + self._blame(hashed, leaf))
        assert broken is not None  # else it was not refused
        return self._found(index, broken.rule, broken.got, broken.wanted, data)

    def _next_mark(self, size: int) -> int:
        """The next size whose root somebody will ask for."""
        marks, asked = self._marks, self._task.asked
        while marks and marks[-1] <= size:
            marks.pop()
        while self._asked < len(asked) and asked[self._asked] <= size:
            self._asked += 1
        return min(marks[-1] if marks else _END, asked[self._asked] if self._asked < len(asked) else _END)

    def _mark(self, part: Part) -> None:
        """Note the root at the present size."""
        size, root, task = self._frontier.size, self._frontier.root, self._task
        if self._marks and self._marks[-1] == size:
            self._roots[size] = root
        if self._asked < len(task.asked) and task.asked[self._asked] == size <= task.certified:
            part.roots.append((size, root))
        self._next = self._next_mark(size)

    def _blame(self, hashed: bytes, stored: bytes) -> list[str]:
        """Which of the two the certified root speaks for."""
        certificate, index = self._heads.get("certificate"), self._frontier.size
        if certificate is None or index >= certificate.size:
            return []
        left, right = self._frontier.copy(), self._frontier.copy()
        if len(stored) != 32:
            return ["the stored hashes are damaged"]
        left.append(stored)
        right.append(hashed)
        for _, leaf, _ in each_row(self._db, self._task.row, index + 1, certificate.size):
            if len(leaf) != 32:
                return ["the stored hashes are damaged"]
            left.append(leaf)
            right.append(leaf)
        for frontier, what in ((left, "the entry was changed"), (right, "the stored hash was changed, not the entry")):
            if frontier.root == certificate.root:
                return [f"the certified root at {certificate.size} shows that {what}"]
        return [f"neither gives the certified root at {certificate.size}"]

    def _end(self) -> None:
        """Check the heads and what was certified before, once the entries are read."""
        entries_are_sound = self._fault is None
        for table, row in self._heads.items():
            if entries_are_sound or (table == "certificate" and row.size <= self._frontier.size):
                fault = self._head(table, row)
                self._fault = self._fault or fault
                self._disproved |= fault is not None and table == "certificate"
                if fault is None and table == "certificate":
                    self._certificate = row.note.decode()
        if self._fault is None:
            self._fault = self._earlier()
            self._disproved |= self._fault is not None

    def _head(self, table: str, row: HeadRow) -> Fault | None:
        name, sound = f"{table} at {row.size}", self._frontier.size
        if row.size < 1:
            return self._found(None, name, f"of {row.size} entries", "at least 1")
        if row.size > sound:
            return self._found(None, name, f"of {row.size} entries", f"at most {sound}: later ones are missing")
        root = self._roots[row.size]
        if root != row.root:
            wanted = f"{row.root.hex()}, that of the {table}: an entry up to {row.size - 1} was changed"
            return self._found(None, f"root of {row.size} entries", root.hex(), wanted)
        head = Checkpoint(origin=self._task.origin, size=row.size, root=row.root)
        try:
            note = notes.parse(row.note)
            if notes.checkpoint(note) != head:
                return self._found(None, name, note.text.replace("\n", " "), "a checkpoint of this log, size and root")
            notes.verify_head(note, self._reader.rules.writers)
            witnesses = self._genesis.cosigners(note)
        except NoteInvalid as exc:
            return self._found(None, name, exc.message, "a head signed by a writer of the log")
        if table == "certificate" and len(witnesses) < self._genesis.quorum:
            wanted = f"at least {self._genesis.quorum} witnesses"
            return self._found(None, name, f"cosigned by {', '.join(witnesses) or 'nobody'}", wanted)
        return None

    def _earlier(self) -> Fault | None:
        """What contradicts the certificate of an earlier verification, or the certificate that was there at first."""
        task, since = self._task, self._since
        certificate = self._heads.get("certificate")
        size = certificate.size if certificate else 0
        if since is not None:
            root = self._roots.get(since.size)
            if root is not None and root != since.root:
                wanted = f"{since.root.hex()}, as certified at the earlier verification: one of the two is a fork"
                return self._found(None, f"fork: root of {since.size} entries", root.hex(), wanted)
            if size < since.size:
                wanted = f"at least {since.size}, as at the earlier verification"
                return self._found(None, "rollback: the certified size", str(size), wanted)
        if size < task.certified or (task.certified and self._roots[task.certified].hex() != task.root):
            wanted = f"that at {task.certified} which it had at first: the file was changed meanwhile"
            return self._found(None, "certificate", f"of {size} entries", wanted)
        return None

    def _found(
        self, entry: int | None, rule: str, got: str, wanted: str, data: bytes = b"", further: list[str] | None = None
    ) -> Fault:
        what = describe_damaged(data) if data else ""
        return Fault(
            origin=self._task.origin, entry=entry, rule=rule, got=got, wanted=wanted, what=what,
            further=tuple(further or ()),
        )  # fmt: skip

    def checked(self) -> Checked:
        """How it ended."""
        sound = self._frontier.size
        return Checked(
            number=self._task.number, entries=self._task.entries, sound=sound, receipts=self._receipts,
            earlier=min(sound, self._since.size) if self._since else 0, certificate=self._certificate,
            disproved=self._disproved, fault=self._fault,
        )  # fmt: skip


def each_row(database: Database, log: int, start: int, end: int) -> Iterator[tuple[int, bytes, bytes]]:
    """The stored rows of a log with an index in [start, end), a few in memory at once."""
    query = "SELECT idx, leaf, data FROM entry WHERE log = ? AND idx >= ? AND idx < ? ORDER BY idx LIMIT 256"
    while rows := database.rows(query, log, start, end):
        yield from rows  # type: ignore[misc]
        start = database.after(rows[-1][0], start)

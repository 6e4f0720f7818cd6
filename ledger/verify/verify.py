"""Verification: everything in a store replayed from its bytes, the first fault of each log named.

Logs are checked side by side, by several processes where there is much to do, each in one snapshot of the file; what
their entries do is folded as it comes. What counts is what was certified when the verification began. Memory follows
the number of logs and of open claims, not the number of entries, but for a few bytes for each claim.

IO: reads one SQLite file; starts processes that do.
"""

import gc
import heapq
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from ledger import certificates, notes
from ledger.errors import EntryInvalid, NoteInvalid, QuorumMissing
from ledger.fold.accounting import EffectFold
from ledger.fold.balances import conservation
from ledger.genesis import Genesis
from ledger.notes import Checkpoint
from ledger.store.database import Database, HeadRow

from .accused import Accused, accused
from .report import Fault, LogSummary, Report, claims
from .roots import Roots
from .survey import check_all, survey
from .tasks import Checked, Part, Task
from .workers import Workers

__all__ = ["Fault", "LogSummary", "Report", "verify_store"]

SMALL = 20_000
"""Fewer certified entries than this are checked by this process alone."""
Progress = Callable[[int, int], None]
_Item = TypeVar("_Item")


def verify_store(
    path: Path | str, genesis: Genesis, *, processes: int | None = None, since: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Replay a store from its bytes.

    Args:
        path: The file.
        genesis: Its network.
        processes: How many check logs; by default as many as this machine runs at once, one for a small ledger.
        since: Certificates of an earlier verification, by origin: signatures that they cover are not checked again.
        progress: Told now and then how many entries of how many are done.

    Raises:
        StoreUnreadable: it cannot be read; GenesisInvalid: it is of another network;
        NoteInvalid, QuorumMissing: `since` holds something that is no certificate of this network.
    """
    earlier = _earlier(genesis, since or {})
    with ExitStack() as stack:
        database = Database.open(Path(path), read_only=True)
        stack.callback(database.close)
        stack.enter_context(database.snapshot())
        genesis.check_same(database.meta("genesis"), str(path))
        stack.enter_context(_without_collection())
        verification = _Verification(database, genesis, earlier, progress)
        count = verification.processes(processes)
        if count > 1:
            workers = stack.enter_context(Workers(Path(path), genesis, count))
            verification.run(workers)
        else:
            verification.run(None)
        return verification.report()


def _earlier(genesis: Genesis, since: Mapping[str, bytes]) -> dict[str, tuple[Checkpoint, str]]:
    """The certificates to start from, as (what they say, their text), each with its quorum."""
    found = {}
    for origin, data in since.items():
        note = notes.parse(data)
        head = notes.checkpoint(note)
        place = f"earlier certificate of {origin}"
        try:
            genesis.terms.owner(origin)
        except EntryInvalid as exc:
            raise NoteInvalid(f"{place}: is not of this network; give a certificates file of it") from exc
        if head.origin != origin or head.size < 1:
            raise NoteInvalid(f"{place}: is of {head.origin} at {head.size}, wanted that log with entries")
        names = genesis.cosigners(note)
        if len(names) < genesis.quorum:
            got = f"cosigned by {', '.join(names) or 'nobody'}"
            raise QuorumMissing(f"{place}: {got}, wanted {genesis.quorum} witnesses; it certifies nothing")
        found[origin] = (head, data.decode())
    return found


class _Verification:
    """One verification of one store."""

    def __init__(
        self, database: Database, genesis: Genesis, earlier: Mapping[str, tuple[Checkpoint, str]],
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self._db, self._genesis, self._earlier, self._progress = database, genesis, earlier, progress
        self._rows = database.logs()
        self._origins = list(self._rows)
        heads = {origin: database.head("certificate", row) for origin, row in self._rows.items()}
        self._heads: dict[str, HeadRow] = {origin: head for origin, head in heads.items() if head is not None}
        self._checked: dict[int, Checked] = {}
        self._fold = EffectFold(genesis.terms, lambda origin, size: b"")

    def processes(self, wanted: int | None) -> int:
        """How many processes to use."""
        if wanted is None:
            small = sum(head.size for head in self._heads.values()) < SMALL
            wanted = 1 if small else _cores()
        return max(1, min(wanted, len(self._rows)))

    def run(self, workers: Workers | None) -> None:
        """Check and fold; again, should a certificate prove to be none, without what it covers."""
        sizes = {row: self._size(origin) for origin, row in self._rows.items()}
        if workers is None:
            found = survey(self._db, sizes)
        else:
            found = workers.survey([dict(share) for share in _shares(sizes.items(), lambda item: item[1], workers)])
        found.asked = {origin: array("q", sorted(sizes)) for origin, sizes in found.asked.items()}
        disproved: set[str] = set()
        while True:
            tasks = []
            for number, (origin, row) in enumerate(self._rows.items()):
                size = 0 if origin in disproved else sizes[row]
                root = self._heads[origin].root.hex() if size else ""
                since = self._earlier[origin][1] if origin in self._earlier else ""
                asked = found.asked.get(origin) or array("q")
                tasks.append(
                    Task(
                        number=number, origin=origin, row=row, entries=found.entries[row], certified=size, root=root,
                        since=since, asked=asked,
                    )
                )  # fmt: skip
            if workers is None:
                self._take(check_all(self._db, self._genesis, tasks), tasks)
            else:
                self._take(workers.check(_shares(tasks, lambda task: found.bytes[task.row], workers)), tasks)
            wrong = {self._origins[item.number] for item in self._checked.values() if item.disproved}
            if wrong <= disproved:
                return
            disproved |= wrong
            self._progress = None  # it said already that all is done

    def _size(self, origin: str) -> int:
        """How many entries of the log count."""
        head = self._heads.get(origin)
        return max(0, head.size) if head else 0

    def _take(self, found: Iterator[Part | Checked], tasks: Sequence[Task]) -> None:
        """Fold what the checks of these tasks give."""
        roots = Roots(self._db, self._rows, {task.origin: task.asked for task in tasks})
        self._fold = EffectFold(self._genesis.terms, roots.get, used=roots.used)
        done, total = 0, sum(task.entries for task in tasks)
        for item in found:
            if isinstance(item, Checked):
                self._checked[item.number] = item
                continue
            origin = self._origins[item.number]
            roots.add(origin, item.roots)
            if item.size > self._fold.size(origin):
                self._fold.feed(origin, item.size, item.effects)
            done += item.rows
            if self._progress is not None:
                self._progress(done, total)

    def report(self) -> Report:
        """What was found."""
        genesis, checks = self._genesis, [self._checked[number] for number in range(len(self._origins))]
        accusations = [accused(self._db, genesis, origin, row) for origin, row in self._rows.items()]
        found = [check.fault or about.fault for check, about in zip(checks, accusations, strict=True)]
        faults = [fault for fault in found if fault is not None]
        for origin, (head, _) in self._earlier.items():
            if origin not in self._rows:
                wanted = f"certified up to {head.size}, as at the earlier verification"
                faults.append(Fault(origin=origin, entry=None, rule="rollback: the log", got="missing", wanted=wanted))
        ledger = self._fold.ledger()
        if not conservation(ledger):
            wanted = "balances + runs + reserved + unclaimed + burned = issued"
            faults.append(Fault(origin="", entry=None, rule="conservation", got="not kept", wanted=wanted))
        logs = tuple(self._summary(check, about) for check, about in zip(checks, accusations, strict=True))
        good = {self._origins[check.number]: check.certificate for check in checks if check.certificate}
        proven, not_proven = claims(genesis, logs, not faults)
        return Report(
            ok=not faults, network=genesis.id, faults=tuple(faults), logs=logs, ledger=ledger, proven=proven,
            not_proven=not_proven,
            certificates=b"" if faults else certificates.write({name: _note(text) for name, text in good.items()}),
        )  # fmt: skip

    def _summary(self, check: Checked, about: Accused) -> LogSummary:
        origin = self._origins[check.number]
        return LogSummary(
            origin=origin, entries=check.entries, sound=check.sound, receipts=check.receipts, earlier=check.earlier,
            certified=0 if check.disproved else self._size(origin),
            frozen=about.frozen, split=about.split,
        )  # fmt: skip


@contextmanager
def _without_collection() -> Iterator[None]:
    """What is folded holds no cycles: looking for them would take a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _cores() -> int:
    """How many processes this machine runs at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _note(text: str) -> notes.Note:
    return notes.parse(text.encode())


def _shares(items: Iterable[_Item], weight: Callable[[_Item], int], workers: Workers) -> list[list[_Item]]:
    """The items in as many shares as there are workers, of about equal weight: the heaviest first, to the lightest."""
    shares: list[list[_Item]] = [[] for _ in range(workers.count)]
    loads = [(0, place) for place in range(workers.count)]
    for item in sorted(items, key=weight, reverse=True):
        load, place = loads[0]
        shares[place].append(item)
        heapq.heapreplace(loads, (load + weight(item) + 1, place))
    return shares

"""Many logs at once: what their recvs ask of other logs, how big they are, and their checks side by side.

IO: reads through the database it is given.
"""

import heapq
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ledger.genesis import Genesis
from ledger.store.database import Database

from .check import LogCheck
from .tasks import Checked, Part, Task

_TAIL = b'"type":"recv"}'
_RECV = re.compile(rb'\{"index":\d{1,16},"origin":"([^"]{1,200})","root":"[0-9a-f]{64}","size":(\d{1,16}),' + _TAIL)


@dataclass(kw_only=True)
class Survey:
    """What is found by a first look at some logs; only to be quick, so a wrong look costs time and nothing else."""

    entries: dict[int, int] = field(default_factory=dict)
    """How many each log has, by its row id."""
    bytes: dict[int, int] = field(default_factory=dict)
    """How long they are together."""
    asked: dict[str, "array[int]"] = field(default_factory=dict)
    """Sizes whose roots certified recvs name, one for each recv, in any order, by the log's origin."""

    def add(self, other: "Survey") -> None:
        """Take in what was found of other logs."""
        self.entries |= other.entries
        self.bytes |= other.bytes
        for origin, sizes in other.asked.items():
            self.asked.setdefault(origin, array("q")).extend(sizes)


def survey(database: Database, certified: Mapping[int, int]) -> Survey:
    """Look over logs, given by row id with the size up to which their entries count."""
    found = Survey()
    for row, size in certified.items():
        count, length = database.rows("SELECT count(*), total(length(data)) FROM entry WHERE log = ?", row)[0]
        found.entries[row], found.bytes[row] = int(str(count)), int(float(str(length)))
        start = 0
        while items := database.rows(
            "SELECT idx, data FROM entry WHERE log = ? AND idx >= ? AND idx < ? AND substr(data, ?) = ? "
            "ORDER BY idx LIMIT 1024", row, start, size, -len(_TAIL), _TAIL,
        ):  # fmt: skip
            for _, data in items:
                match = _RECV.fullmatch(data) if isinstance(data, bytes) else None
                if match:
                    found.asked.setdefault(match[1].decode("latin-1"), array("q")).append(int(match[2]))
            start = database.after(items[-1][0], start)
    return found


def check_all(database: Database, genesis: Genesis, tasks: Sequence[Task]) -> Iterator[Part | Checked]:
    """Check logs side by side, each advancing by the same share, so that what one claims of another is soon known."""
    turns = [(0.0, place) for place in range(len(tasks))]
    checks: dict[int, LogCheck] = {}
    while turns:
        _, place = turns[0]
        task = tasks[place]
        check = checks.pop(place, None) or LogCheck(database, genesis, task)
        if not check.done:
            yield check.step()
        if check.done:
            heapq.heappop(turns)
            yield check.checked()
        else:
            checks[place] = check
            heapq.heapreplace(turns, (check.read / max(1, task.entries), place))

"""What the replica machine remembers of peers, of logs, and of the log that it fetches from a peer; all of it bounded.

Pure: no IO; changed only by `ledger.replica`.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from .values import BUNDLE, ENTRY_BYTES, Entries, EntriesOf, EvidenceOf, Fact, Heads, Request, Settings, Take

FIRST_SPAN = 64 * BUNDLE
"""Entries that are asked for before it is known how many an answer holds."""


@dataclass(kw_only=True)
class Peer:
    """One peer."""

    name: str
    """Its name for the executor."""
    preferred: bool
    """Whether it is among those likely to know the newest heads."""
    instance: str = ""
    """Its store, as it said."""
    cursor: int = 0
    """Where its last heads ended."""
    page: Heads | None = None
    """Its last heads, until we looked up what we have of them."""
    page_at: float | None = None
    """When to ask for heads again out of turn, because there are more."""
    useless: int = 0
    """Full answers in a row that held nothing of use."""
    dull: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Logs of which it has more than we, not worth having as far as we know; oldest first."""
    wanted: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Those worth having."""
    accused: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Logs against which it has evidence and we have not."""
    asked: dict[Request, None] = field(default_factory=dict)
    """Requests without an answer."""
    pending_bytes: int = 0
    """What these may bring, and what came and waits to be stored."""
    lies: int = 0
    """How often it was blamed, less what it made good."""
    failures: int = 0
    """Failures of the network in a row when asked for heads."""
    silent: int = 0
    """The same when asked for entries or evidence."""
    not_before: float = 0.0
    """When it may be asked again."""
    dropped: bool = False
    """Whether something it said had to be forgotten, so that its heads must be gone through again."""
    scan_at: float = 0.0
    """When that may be done."""
    scan_s: float
    """The next pause before it is done again."""

    def remembers(self) -> int:
        """How many heads of it are remembered."""
        return len(self.dull) + len(self.wanted)


@dataclass(kw_only=True)
class Log:
    """One log of which somebody has more than we, or evidence."""

    origin: str
    """The log."""
    fact: Fact
    """What our store last said of it."""
    sources: dict[str, int] = field(default_factory=dict)
    """Peer → certified size that it says it has, above ours."""
    accusers: dict[str, None] = field(default_factory=dict)
    """Peers that say that they have evidence which we lack."""
    fetch: "Fetch | None" = None
    """The fetch under way."""
    taking: Take | None = None
    """What is being stored; nothing is fetched anew meanwhile, and nothing else stored."""
    asking: EvidenceOf | None = None
    """The question for evidence without an outcome."""
    proven: int = 0
    """Up to here what we store was proven while we watched."""
    doubts: int = 0
    """How often entries did not fit our own uncertified tail, which may be wrong: we begin at what is certified."""
    not_before: float = 0.0
    """When it may be fetched again."""

    @property
    def idle(self) -> bool:
        """Whether nothing is done about it just now."""
        return self.fetch is None and self.taking is None

    @property
    def needed(self) -> bool:
        """Whether there is a reason to remember it."""
        return bool(self.sources or self.accusers or self.asking) or not self.idle

    @property
    def start(self) -> int:
        """The first entry that we lack."""
        return self.fact.certified if self.doubts else self.fact.have


class Fetch:
    """Ranges of one log asked of one peer, several at a time, stored in order."""

    def __init__(self, peer: str, goal: int, start: int, certified: int) -> None:
        self.peer = peer
        self.goal = goal
        """The size to reach, as the peer says."""
        self.asked: dict[EntriesOf, int] = {}
        """Ranges without an answer, each with the size that the peer was known to have when it was asked."""
        self.arrived: dict[int, Entries] = {}
        """Answers that wait to be stored, by where they start."""
        self.at = min(start, goal)
        """Up to here all is stored."""
        self._first = (self.at, certified)
        self._next = self.at
        self._gaps: list[tuple[int, int]] = []
        self._span = 0  # how many entries one answer holds; known with the first answer

    def range(self, origin: str) -> EntriesOf:
        """The next range to ask for, if there is `more`."""
        if self._gaps:
            start, end = self._gaps.pop()
            return EntriesOf(origin=origin, start=start, end=end)
        start = self._next
        self._next = (start + (self._span or FIRST_SPAN)) // BUNDLE * BUNDLE
        return EntriesOf(origin=origin, start=start, end=self._next)

    def more(self) -> bool:
        """Whether there is a range to ask for: at first only one, even where only the certificate is missing."""
        if not self._span:
            return not self.asked
        return bool(self._gaps) or self._next < self.goal

    def again(self) -> None:
        """Forget what arrived, and ask anew, one range first."""
        self.arrived.clear()
        self._gaps.clear()
        self._next, self._span = self.at, 0

    def answered(self, request: EntriesOf, answer: Entries, settings: Settings) -> str:
        """Keep an answer to be stored; what is wrong with it where no honest peer answers so."""
        said = self.asked.pop(request)
        count, room, certified = len(answer.entries), answer.room, answer.size
        end = request.start + count
        if certified < said:
            return f"has {certified} certified entries of {request.origin}, said {said}"
        if end > min(request.end, certified) or request.start > certified:
            return f"sent entries up to {end} of {certified} of {request.origin}, asked for {request.end}"
        if bool(answer.proof) != (end < certified):
            return f"sent a proof of {len(answer.proof)} hashes from {end} to {certified} of {request.origin}"
        if end < min(request.end, certified) and (not count or room < settings.answer_bytes // 2 - ENTRY_BYTES):
            return f"sent {count} entries ({room} bytes) of {request.origin}, {request.end - request.start} asked"
        self.goal = max(self.goal, certified)
        if not self._span:
            self._next = end
        elif end < min(request.end, self.goal):
            self._gaps.append((end, request.end))
        bundles = int(0.9 * settings.answer_bytes * count / room) // BUNDLE if room else 0
        self._span = BUNDLE * max(1, min(FIRST_SPAN // BUNDLE, bundles))
        self.arrived[request.start] = answer
        return ""

    def due(self) -> int | None:
        """Where the answer starts that can be stored next."""
        start = min(self.arrived, default=None)
        return start if start is not None and start <= self.at else None

    def over(self, certified: int) -> str | None:
        """None while something is under way; then empty, or why it came to nothing."""
        if self.asked or self.arrived or self.more():
            return None
        return "" if (self.at, certified) != self._first else "sends nothing that brings its log further"

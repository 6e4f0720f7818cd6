"""Which chunk to ask of whom: the least loaded first, slow ones asked again elsewhere, bad ones never again.

*Holders* are said to have the blob. *Others* only may have it: they are asked where no holder can help, or none did for
a while. Who lacks a chunk is asked again later, while anybody else may have it: it may be fetching it, too.

Pure: times in, decisions out; the order of the chunks comes from the `rng` that is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

GUESS_S = 2.0
"""After so long without a holder that helps, others are asked as well."""
AGAIN_S = 0.1
"""First pause before a provider that lacks a chunk is asked for it again; it doubles."""
MOST_ASKED = 8
REST_S = 1.0
"""Pause of a provider that sent us on to others."""
BUSY_S = 0.5
MOST_BUSY_S = 120.0
"""Who is busy for so long without a word is given up."""
MOST_HEARSAY = 16
"""Providers that other providers name, for one blob."""
LONGEST_S = 90.0
"""However it moves, a chunk that takes so long is asked of another provider, too."""
LOOKED_AT = 64
"""So many chunks in a row that nobody can be asked for end the search."""


@dataclass
class _Provider:
    """What is known of one provider of one blob; owned by `Plan`."""

    holder: bool
    order: int
    """Among equals the one that was named first is asked first."""
    in_flight: int = 0
    failures: int = 0
    not_before: float = 0.0
    busy_since: float | None = None
    dropped: str = ""
    lacks: dict[int, tuple[float, int]] = field(default_factory=dict)
    """By chunk: when it may be asked for it again, and how often it was."""
    seconds: float = 0.0
    """Smoothed duration of a request."""


@dataclass(frozen=True)
class Ask:
    """Ask this provider for this chunk."""

    chunk: int
    provider: str


@dataclass
class _Flight:
    """A chunk on its way from one provider."""

    started: float
    moved: float


class Plan:
    """The download of one blob; fed with what came of each `Ask`."""

    def __init__(
        self,
        chunks: Iterable[int],
        holders: Iterable[str],
        others: Iterable[str] = (),
        *,
        window: int = 4,
        hedge_s: float = 1.0,
        attempts: int = 4,
        rng: Random | None = None,
    ) -> None:
        """`window`: chunks in flight per provider; `hedge_s`: after which a slow chunk is asked of another one too."""
        todo = list(chunks)
        if rng is not None:
            rng.shuffle(todo)  # members that fetch the same blob have different chunks to give each other
        self._todo = dict.fromkeys(todo)
        self._flying: dict[int, dict[str, _Flight]] = {}
        self._providers: dict[str, _Provider] = {}
        self._window, self._hedge_s, self._attempts = window, hedge_s, attempts
        self._hearsay = 0
        self._began: float | None = None
        self.add_providers(holders)
        self.add_providers(others, holders=False)

    def add_providers(self, providers: Iterable[str], *, holders: bool = True) -> None:
        """More places to ask; one that was dropped stays dropped."""
        for name in providers:
            known = self._providers.setdefault(name, _Provider(holder=holders, order=len(self._providers)))
            known.holder = known.holder or holders

    def is_holder(self, name: str) -> bool:
        """Whether this provider is said to have the blob."""
        return self._providers[name].holder

    @property
    def done(self) -> bool:
        """Whether every chunk is here."""
        return not self._todo

    @property
    def stuck(self) -> str:
        """Why no provider can help any more, or ''."""
        if self.done or any(self._flying.values()):
            return ""
        if any(not one.dropped and set(self._todo) - one.lacks.keys() for one in self._providers.values()):
            return ""
        reasons = [f"{name}: {one.dropped or 'does not have it'}" for name, one in self._providers.items()]
        return "; ".join(reasons) or "no provider is known"

    def next(self, now: float) -> list[Ask]:
        """What to ask now; each answer comes back as `arrived`, `failed`, `busy`, `lacking`, `referred` or `bad`."""
        asks: list[Ask] = []
        self._began = now if self._began is None else self._began
        in_vain = 0
        for chunk in self._todo:
            flying = self._flying.setdefault(chunk, {})
            if flying and not self._impatient(flying, now):
                continue
            name = self._choose(chunk, flying, now)
            if name is not None:
                flying[name] = _Flight(now, now)
                self._providers[name].in_flight += 1
                asks.append(Ask(chunk, name))
                in_vain = 0
            elif not flying:
                in_vain += 1
                if in_vain > LOOKED_AT or self._full(now):
                    break
        return asks

    def wake_s(self, now: float) -> float:
        """Seconds until `next` may have something new though nothing arrives."""
        able = [one for one in self._providers.values() if not one.dropped]
        waits = [one.not_before - now for one in able]
        waits += [again - now for one in able for again, _ in one.lacks.values()]
        waits += [self._patience_ends(flying) - now for flying in self._flying.values() if flying]
        return max(0.01, min([1.0, *(wait for wait in waits if wait > 0)]))

    def moved(self, ask: Ask, now: float) -> None:
        """A part of the chunk came: the provider is slow, perhaps, but not silent."""
        flight = self._flying.get(ask.chunk, {}).get(ask.provider)
        if flight is not None and now - flight.started < LONGEST_S:
            flight.moved = now
        self._providers[ask.provider].busy_since = None

    def arrived(self, ask: Ask, now: float) -> bool:
        """The chunk is here and verified; False if another provider was faster."""
        flight = self._flying.get(ask.chunk, {}).get(ask.provider)
        one = self._landed(ask)
        took = now - flight.started if flight is not None else 0.0
        one.seconds = 0.7 * one.seconds + 0.3 * took if one.seconds else took
        one.failures, one.busy_since = 0, None
        first = ask.chunk in self._todo
        self._todo.pop(ask.chunk, None)
        return first

    def failed(self, ask: Ask, reason: str, now: float) -> None:
        """No answer: asked again later, given up after some attempts in a row."""
        one = self._landed(ask)
        one.failures += 1
        one.not_before = now + 0.1 * 2**one.failures
        if one.failures >= self._attempts:
            one.dropped = reason

    def busy(self, ask: Ask, reason: str, now: float, *, pause_s: float = BUSY_S) -> None:
        """It has no time for us just now: asked again later, given up if that goes on for minutes."""
        one = self._landed(ask)
        one.not_before = now + pause_s
        one.busy_since = now if one.busy_since is None else one.busy_since
        if now - one.busy_since >= MOST_BUSY_S:
            one.dropped = reason

    def referred(self, ask: Ask, names: Sequence[str], now: float) -> None:
        """It has the blob, and would rather have us ask those that it gave it to."""
        self.busy(ask, "sent us on to others, again and again", now, pause_s=REST_S)
        for name in names:
            known = self._providers.get(name)
            if known is not None:
                known.holder = True
                known.lacks.pop(ask.chunk, None)
            elif self._hearsay < MOST_HEARSAY:
                self._hearsay += 1
                self.add_providers([name])

    def lacking(self, ask: Ask, now: float) -> None:
        """The provider does not have this chunk, yet."""
        one = self._landed(ask)
        times = one.lacks.get(ask.chunk, (0.0, 0))[1] + 1
        one.lacks[ask.chunk] = (now + AGAIN_S * 2**times, times)

    def bad(self, ask: Ask, reason: str) -> None:
        """The provider sent bytes that are not the chunk: it is not asked again for this blob."""
        self._landed(ask).dropped = reason

    def _landed(self, ask: Ask) -> _Provider:
        one = self._providers[ask.provider]
        one.in_flight -= 1
        self._flying.get(ask.chunk, {}).pop(ask.provider, None)
        return one

    def _choose(self, chunk: int, flying: dict[str, _Flight], now: float) -> str | None:
        able = [
            (not one.holder, chunk in one.lacks, one.in_flight * (one.seconds or 0.05), one.failures, one.order, name)
            for name, one in self._providers.items()
            if not one.dropped and one.not_before <= now and one.in_flight < self._window
            and name not in flying and self._may_have(one, chunk, now)
        ]  # fmt: skip
        if not able:
            return None
        guess, *_, name = min(able)
        early = now - (self._began or 0.0) < GUESS_S
        return None if guess and early and self._holders_may_help(chunk) else name

    def _may_have(self, one: _Provider, chunk: int, now: float) -> bool:
        again, times = one.lacks.get(chunk, (now, 0))
        return again <= now and times < MOST_ASKED

    def _holders_may_help(self, chunk: int) -> bool:
        """Whether a holder, asked just now or resting perhaps, is not known to lack the chunk."""
        return any(one.holder and not one.dropped and chunk not in one.lacks for one in self._providers.values())

    def _full(self, now: float) -> bool:
        """Whether no provider takes another chunk, whichever it is."""
        return all(
            one.dropped or one.not_before > now or one.in_flight >= self._window for one in self._providers.values()
        )

    def _impatient(self, flying: dict[str, _Flight], now: float) -> bool:
        return now >= self._patience_ends(flying)

    def _patience_ends(self, flying: dict[str, _Flight]) -> float:
        usual = max((self._providers[name].seconds for name in flying), default=0.0)
        return max(flight.moved for flight in flying.values()) + max(self._hedge_s, 4 * usual)

"""The nodes of the simulation of witnesses: honest replicas and witnesses around the real store.

Every honest node pulls certified entries and evidence from others; honest witnesses also compare what they promised.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ledger import notes
from ledger.errors import Behind, LedgerError, StoreUnreadable
from ledger.evidence import Evidence
from ledger.evidence import verify as verify_evidence
from ledger.witness import Witness
from tests.sim.ledger_witnesses_parts import WITNESSES, Disk, Killed, Silence
from tests.sim.net import Failure

if TYPE_CHECKING:
    from tests.sim.ledger_witnesses import World


class Node:
    """One process life of an honest peer, on a disk that it shares with its other lives."""

    def __init__(self, world: World, name: str, disk: Disk) -> None:
        self.world = world
        self.name = name
        self.disk = disk
        self.alive = True
        self.store = disk.boot()
        self._sizes: dict[str, int] = {}
        """Certified sizes that were looked up, until they change."""
        self.every(self.pull, world.settings.pull_s)

    # ------------------------------------------------------------------ being a process

    def guarded(self, action: Callable[[], Any]) -> Any:
        """Do something in this process, which may be killed meanwhile."""
        try:
            return action()
        except Killed:
            self.world.kill(self)
            raise Silence from None

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something later, if this life lasts so long."""

        def act() -> None:
            if self.alive:
                try:
                    self.guarded(action)
                except Silence:
                    pass

        self.world.clock.at(self.world.clock.now + seconds, act)

    def every(self, action: Callable[[], object], mean_s: float) -> None:
        """Do something again and again."""

        def act() -> None:
            action()
            self.every(action, mean_s)

        self.after(self.world.rng.uniform(0.5, 1.5) * mean_s, act)

    def call(self, to: str, method: str, body: Any, answer: Callable[[Any], object]) -> None:
        """Call another node; what it answers is looked at unless it is a failure, and may be nonsense."""

        def receive(value: Any) -> None:
            if isinstance(value, Failure):
                return
            try:
                self.guarded(lambda: answer(value))
            except Silence:
                pass
            except StoreUnreadable:
                raise
            except LedgerError as exc:
                self.world.observer.events[f"refused {exc.code}"] += 1

        self.world.net.call(self, to, method, body, receive)

    def serve(self, caller: str, method: str, body: Any) -> Any:
        """Answer a call."""
        try:
            return self.guarded(lambda: getattr(self, f"on_{method}")(body))
        except Behind as exc:
            return {"behind": exc.size}
        except StoreUnreadable:
            raise
        except LedgerError as exc:
            self.world.observer.events[f"refused {exc.code}"] += 1
            raise Failure(exc.code, exc.message) from exc

    # ------------------------------------------------------------------ replication

    def certified_size(self, origin: str) -> int:
        """How much of a log is certified here."""
        if origin not in self._sizes:
            certificate = self.store.certified(origin)
            self._sizes[origin] = certificate.size if certificate else 0
        return self._sizes[origin]

    def changed(self, origin: str, before: int) -> None:
        """A certificate came in: it is looked at where it tells more than `before`."""
        del self._sizes[origin]
        if self.certified_size(origin) > before:
            self.world.observer.certified(self.store, origin)

    def heads(self) -> dict[str, int]:
        """Certified sizes by log."""
        return {origin: size for origin in self.store.origins() if (size := self.certified_size(origin))}

    def on_heads(self, body: Any) -> Any:
        """What is certified here, and which logs are accused."""
        return {"heads": self.heads(), "evidence": self.accused()}

    def accused(self) -> list[str]:
        """The logs of which there is evidence here."""
        return [origin for origin in self.store.origins() if self.store.evidence(origin)]

    def on_entries(self, body: Any) -> Any:
        """The certified entries of a log from an index on."""
        certificate = self.store.certified(body["origin"])
        if certificate is None:
            raise Failure("FP-210")
        entries = self.store.entries(body["origin"], body["start"], certificate.size)
        return {"start": body["start"], "entries": entries, "certificate": certificate.note}

    def on_evidence(self, body: Any) -> Any:
        """The evidence against a log."""
        return {"evidence": [evidence.encode() for evidence in self.store.evidence(body["origin"])]}

    def pull(self) -> None:
        """Ask somebody for what is new."""
        others = [name for name in self.world.net.hosts if name != self.name]
        if others:
            other = self.world.rng.choice(others)
            self.call(other, "heads", {}, lambda value: self._told(other, value))

    def _told(self, other: str, value: Any) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("heads"), dict):
            return
        for origin, size in value["heads"].items():
            if isinstance(size, int) and size > (have := self.certified_size(origin)):
                body = {"origin": origin, "start": have}
                self.call(other, "entries", body, lambda found, origin=origin: self._take(origin, found))  # type: ignore[misc]
        for origin in value.get("evidence", ()):
            if not self.store.evidence(origin):
                self.call(other, "evidence", {"origin": origin}, self._take_evidence)

    def _take(self, origin: str, found: Any) -> None:
        if not isinstance(found, dict) or "certificate" not in found:
            return
        before = self.certified_size(origin)
        self.store.accept(origin, found["start"], found["entries"], found["certificate"])
        self.changed(origin, before)

    def _take_evidence(self, found: Any) -> None:
        if isinstance(found, dict):
            for encoded in found.get("evidence", ()):
                self.accuse(Evidence.parse(encoded))

    def accuse(self, evidence: Evidence) -> None:
        """Keep evidence; it must name somebody who really contradicted itself."""
        origin, _ = verify_evidence(evidence, self.world.genesis.terms)
        self.store.add_evidence(evidence)
        self.world.check_accused(origin)


class WitnessNode(Node):
    """An honest witness."""

    kind: type[Witness] = Witness

    def __init__(self, world: World, name: str, disk: Disk) -> None:
        super().__init__(world, name, disk)
        if name in world.observer.honest:
            world.observer.restarted(name, self.store)
        self.witness = self.kind(self.store, world.genesis, WITNESSES[name], name)
        self.every(self.compare, world.settings.pull_s)

    def on_cosign(self, body: Any) -> Any:
        """Cosign a head, or say what is missing."""
        return {"cosignature": self.cosign(body["origin"], body["start"], body["entries"], body["note"])}

    def cosign(self, origin: str, start: int, entries: Sequence[bytes], note: bytes) -> bytes:
        """The cosignature, seen by the observer on its way out."""
        accused = bool(self.store.evidence(origin))
        try:
            line = self.witness.cosign(origin, start, entries, note, int(self.world.clock.now))
        except LedgerError:
            if not accused and self.store.evidence(origin):
                self.world.observer.events["accused on the spot"] += 1
                self.world.check_accused(origin)
            raise
        if self.name in self.world.observer.honest:
            self.world.observer.cosigned(self.name, self.store, note)
        return line

    def on_promises(self, body: Any) -> Any:
        """The newest head promised of each log."""
        found = {origin: self.store.promised(origin) for origin in self.store.origins()}
        return {"promises": {origin: note for origin, note in found.items() if note}}

    def on_tail(self, body: Any) -> Any:
        """All entries of a log that the newest promise covers."""
        note = self.store.promised(body["origin"])
        if note is None:
            raise Failure("FP-210")
        size = notes.checkpoint(notes.parse(note)).size
        return {"entries": self.store.entries(body["origin"], 0, size), "note": note}

    def compare(self) -> None:
        """Ask another witness what it promised, and look closer where that is not what was promised here."""
        other = self.world.rng.choice([name for name, _ in self.world.genesis.witnesses])
        if other != self.name:
            self.call(other, "promises", {}, lambda value: self._compare(other, value))

    def _compare(self, other: str, value: Any) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("promises"), dict):
            return
        for origin, theirs in value["promises"].items():
            ours = self.store.promised(origin)
            if ours is None or (ours.split(b"\n")[:3] != theirs.split(b"\n")[:3] and not self.store.evidence(origin)):
                body = {"origin": origin}
                self.call(other, "tail", body, lambda found, origin=origin: self._look(origin, found))  # type: ignore[misc]

    def _look(self, origin: str, found: Any) -> None:
        if isinstance(found, dict) and "note" in found:
            self.cosign(origin, 0, found["entries"], found["note"])

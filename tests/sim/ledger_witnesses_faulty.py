"""Who breaks the rules in the simulation of witnesses: faulty witnesses, and owners that show different logs around.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger import notes
from ledger.entries import Send
from ledger.errors import LedgerError
from ledger.evidence import Evidence
from ledger.keys import PrivateKey
from ledger.merkle import leaf_hash, root
from ledger.notes import Checkpoint
from ledger.quorum import Quorum
from tests.sim.ledger_witnesses_parts import ACCOUNTS, SUPPLY, WITNESSES, Late, Silence
from tests.sim.net import Failure

if TYPE_CHECKING:
    from tests.sim.ledger_witnesses import World


class Liar:
    """A faulty witness: has the key of one and no store; each kind has its own way to answer."""

    KINDS = ("signs all", "withholds", "says behind", "garbage", "other head", "late", "refuses", "forges", "mixed")

    def __init__(self, world: World, name: str, kind: str) -> None:
        self.world = world
        self.name = name
        self.kind = kind
        self.alive = True
        self.key: PrivateKey = WITNESSES[name]
        self._seen: list[tuple[str, list[bytes], bytes]] = []

    def serve(self, caller: str, method: str, body: Any) -> Any:
        """Answer a call, not in good faith."""
        rng = self.world.rng
        kind = rng.choice(self.KINDS[:-1]) if self.kind == "mixed" else self.kind
        if kind == "withholds":
            raise Silence
        if kind == "refuses":
            raise Failure("FP-211", "no")
        if method == "cosign":
            if body["start"] == 0:
                self._seen = [*self._seen[-20:], (body["origin"], list(body["entries"]), body["note"])]
            return self._cosign(kind, body["note"])
        return getattr(self, f"_{method}")(kind, body)

    def _line(self, note: bytes, key: PrivateKey | None = None) -> bytes:
        return notes.cosign(note, self.name, key or self.key, int(self.world.clock.now))

    def _cosign(self, kind: str, note: bytes) -> Any:
        rng = self.world.rng
        if kind == "says behind":
            return {"behind": rng.choice([0, 1, 2, 10**9, -5, "many"])}
        if kind == "garbage":
            lines = [b"", b"\xff\xfe", b"x" * 200, self._line(note)[:-9] + b"\n", 2 * self._line(note), None, 17]
            return rng.choice([None, [], {"cosignature": rng.choice(lines)}, {"behind": None}])
        if kind == "other head":
            return {"cosignature": self._line(rng.choice(self._seen)[2] if self._seen else note)}
        if kind == "forges":
            return {"cosignature": self._line(note, rng.choice(list(ACCOUNTS.values())))}
        answer = {"cosignature": self._line(note)}
        return Late(after_s=rng.expovariate(1 / 4), value=answer) if kind == "late" else answer

    def _heads(self, kind: str, body: Any) -> Any:
        rng, genesis = self.world.rng, self.world.genesis
        if kind == "garbage":
            return rng.choice([None, {}, {"heads": 5}, b"\x00"])
        heads = {genesis.origin(key.public): rng.choice([1, 5, 10**6]) for key in ACCOUNTS.values()}
        return {"heads": heads, "evidence": list(heads)}

    def _entries(self, kind: str, body: Any) -> Any:
        """Entries under a certificate that only faulty witnesses signed, or of another size than it says."""
        known = [seen for seen in self._seen if seen[0] == body["origin"]]
        if not known:
            raise Silence
        _, entries, note = self.world.rng.choice(known)
        lines = [notes.cosign(note, name, WITNESSES[name], 1) for name in self.world.faulty]
        some = entries[: self.world.rng.randint(0, 9)]
        return {"start": 0, "entries": some, "certificate": notes.combine(note, lines)}

    def _evidence(self, kind: str, body: Any) -> Any:
        """False accusations: two heads that do not contradict each other, or whose root is made up."""
        known = [note for origin, _, note in self._seen if origin == body["origin"]]
        if not known:
            raise Silence
        first, second = self.world.rng.choice(known), self.world.rng.choice(known)
        false = Evidence(first=first, second=second, root=bytes(32), proof=(bytes(32),) * self.world.rng.randint(0, 3))
        return {"evidence": [false.encode()]}

    def _promises(self, kind: str, body: Any) -> Any:
        return {"promises": {origin: note for origin, _, note in self._seen}}

    def _tail(self, kind: str, body: Any) -> Any:
        known = [seen for seen in self._seen if seen[0] == body["origin"]]
        if not known:
            raise Silence
        _, entries, note = self.world.rng.choice(known)
        return {"entries": entries[: self.world.rng.randint(0, 20)], "note": note}


class Equivocator:
    """An owner that signs several continuations of its log and shows each to other witnesses.

    On every branch it spends all that it has, to somebody else. A branch that is certified is published.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.key = ACCOUNTS[name]
        self.origin = world.genesis.origin(self.key.public)
        self.branches: list[list[bytes]] = [[self._spend()]]
        self.certificates: list[tuple[bytes, list[bytes]]] = []
        self._quorums: dict[bytes, Quorum] = {}
        self._audience: dict[str, int] = {}
        """Which branch each witness is shown, mostly."""
        self._later(self.act, world.rng.uniform(0, 3))

    def _later(self, action: Callable[[], None], seconds: float) -> None:
        self.world.clock.at(self.world.clock.now + seconds, action)

    def _spend(self) -> bytes:
        rng = self.world.rng
        to = rng.choice([key.public for key in ACCOUNTS.values() if key is not self.key])
        return Send(to=to, amount=rng.choice([SUPPLY, SUPPLY, rng.randint(1, SUPPLY)]), memo=str(rng.random())).encode()

    def act(self) -> None:
        """Lengthen a branch or grow a new one; show some witnesses what they are to believe."""
        rng = self.world.rng
        branch = rng.choice(self.branches)
        if len(self.branches) < 3 and rng.random() < 0.5:
            branch = branch[: rng.randint(0, len(branch))]
            self.branches.append([*branch, self._spend()])
        elif len(branch) < 8 and rng.random() < 0.6:
            branch += [self._spend() for _ in range(rng.randint(1, 2))]
        for name, _ in self.world.genesis.witnesses:
            place = self._audience.setdefault(name, rng.randrange(3)) % len(self.branches)
            if rng.random() < 0.05:
                place = rng.randrange(len(self.branches))
            if rng.random() < 0.7:
                self.show(name, self.branches[place])
        if self.world.clock.now < self.world.settings.heal_s:
            self._later(self.act, rng.uniform(0.5, 3))

    def show(self, witness: str, entries: list[bytes]) -> None:
        """Ask a witness to cosign the head of these entries, or of the first of them."""
        size = self.world.rng.randint(1, len(entries)) if self.world.rng.random() < 0.2 else len(entries)
        shown = list(entries[:size])
        head = Checkpoint(origin=self.origin, size=size, root=root(map(leaf_hash, shown)))
        note = notes.sign_head(head, self.key)
        quorum = self._quorums.setdefault(note, Quorum(self.world.genesis, note))

        def answer(value: Any) -> None:
            line = value.get("cosignature") if isinstance(value, dict) else None
            if not isinstance(line, bytes):
                return
            try:
                quorum.add(witness, line)
            except LedgerError:
                return
            if quorum.certificate is not None:
                self.certificates.append((quorum.certificate, shown))

        body = {"origin": self.origin, "start": 0, "entries": shown, "note": note}
        self.world.net.call(self, witness, "cosign", body, answer)

    def serve(self, caller: str, method: str, body: Any) -> Any:
        """Publish what is certified: to each caller perhaps something else."""
        if method == "heads":
            sizes = [len(entries) for _, entries in self.certificates]
            return {"heads": {self.origin: self.world.rng.choice(sizes)} if sizes else {}, "evidence": []}
        if method != "entries" or body["origin"] != self.origin or not self.certificates:
            raise Failure("FP-210")
        certificate, entries = self.world.rng.choice(self.certificates)
        return {"start": body["start"], "entries": entries[body["start"] :], "certificate": certificate}
